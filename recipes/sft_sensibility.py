r"""
Trains a sensibility expert: scores the dialogues, keeps the sensibility set (S > T and R < T), fine-tunes on it.

Without arguments, on CPU, on the embedded sample and a small chat model:

    accelerate launch recipes/sft_sensibility.py

QLoRA of an 8B model on a single GPU:

    accelerate launch recipes/sft_sensibility.py \
        --config recipes/configs/qlora_8b.yaml --dataset dialogues.parquet

The paper's LoRA settings on several GPUs (FSDP2; `zero3.yaml` for DeepSpeed ZeRO-3):

    accelerate launch --config_file recipes/accelerate/fsdp2.yaml recipes/sft_sensibility.py \
        --config recipes/configs/lora_8b.yaml --dataset dialogues.parquet

The baselines of equal size: `--empathy_rule random` and `--empathy_rule longest`. Options, reruns and
files: README.md.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ee_trl.training.arguments import ExpertArguments
from ee_trl.training.command_line import recipe_parser, run_recipe


if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig


make_parser = partial(recipe_parser, ExpertArguments, empathy_keep="sensibility", output_dir="runs/sft_sensibility")


def main(empathy_args: ExpertArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
    """Selects, trains and saves."""
    from ee_trl.training.expert import ExpertRun

    ExpertRun(empathy_args, training_args, model_args).run()


if __name__ == "__main__":
    run_recipe(main, make_parser)
