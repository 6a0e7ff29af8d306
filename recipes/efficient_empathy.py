r"""
The whole method by one command: score, select, train experts and baselines, compose, train the router, evaluate.

Without arguments, on CPU, on the embedded sample, with a small chat model (or a tiny one that is trained first):

    accelerate launch recipes/efficient_empathy.py

An 8B model on a single GPU of 80 GB:

    accelerate launch recipes/efficient_empathy.py \
        --config recipes/configs/efficient_empathy_8b.yaml --dataset dialogues.parquet

On several GPUs, each with the whole model:

    accelerate launch --config_file recipes/accelerate/ddp.yaml recipes/efficient_empathy.py \
        --config recipes/configs/efficient_empathy_8b.yaml --dataset dialogues.parquet

TRL's settings are the experts'; `empathy_router_training` holds what differs for the router. The report (`report.md`)
compares the base, each expert, a LoRA on the union of both sets, the mean of the experts, and the mixture before and
after the training of its router. A rerun reuses every stage whose inputs are the same; for the others it says which
inputs changed, or goes on where they were interrupted.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ee_trl.training.arguments import PipelineArguments
from ee_trl.training.command_line import recipe_parser, run_recipe


if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig


make_parser = partial(recipe_parser, PipelineArguments, output_dir="runs/efficient_empathy", dtype="auto")


def main(empathy_args: PipelineArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
    """Does every stage that is not done yet, and names the report."""
    from ee_trl.training.method import EfficientEmpathy

    EfficientEmpathy(empathy_args, training_args, model_args).run()


if __name__ == "__main__":
    run_recipe(main, make_parser)
