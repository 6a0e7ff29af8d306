r"""
The whole method by one command: score, select, train experts and baselines, compose, train the router, evaluate.

Without arguments, on CPU, on the embedded sample, with a tiny model that is trained first:

    accelerate launch recipes/efficient_empathy.py

An 8B model on a single GPU of 80 GB:

    accelerate launch recipes/efficient_empathy.py \
        --config recipes/configs/efficient_empathy_8b.yaml --dataset dialogues.parquet

On several GPUs, each with the whole model:

    accelerate launch --config_file recipes/accelerate/ddp.yaml recipes/efficient_empathy.py \
        --config recipes/configs/efficient_empathy_8b.yaml --dataset dialogues.parquet

TRL's settings are the experts'; `empathy_router_training` holds what differs for the router. The report (`report.md`)
sets side by side the base, each expert, a LoRA on the union of both sets, the mean of the experts, and the mixture
before and after its router was trained. A rerun reuses each stage whose inputs are what they were, says which inputs
changed of the others, and goes on where one was cut off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig, TrlParser

    from ee_trl.training.arguments import PipelineArguments


def main(empathy_args: PipelineArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
    """Does what is not done yet, and names the report."""
    from ee_trl.training.method import EfficientEmpathy

    run = EfficientEmpathy(empathy_args, training_args, model_args)
    report = run.run()
    if run.state.is_main_process:
        print(f"Report: {report}")
    run.state.destroy_process_group()


def make_parser() -> TrlParser:
    """TRL's arguments for training and model, and ours for data and stages."""
    from trl import ModelConfig, SFTConfig, TrlParser

    from ee_trl.training.arguments import PipelineArguments

    parser = TrlParser([PipelineArguments, SFTConfig, ModelConfig])  # type: ignore[list-item]
    parser.set_defaults(output_dir="runs/efficient_empathy", dtype="auto")
    return parser


if __name__ == "__main__":
    from ee_trl.training.arguments import run_recipe

    run_recipe(main, make_parser())
