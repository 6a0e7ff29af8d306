r"""
Trains a rationality expert: scores the dialogues, keeps the rationality set (R > T and S < T), fine-tunes on it.

    accelerate launch recipes/sft_rationality.py \
        --config recipes/configs/qlora_8b.yaml --dataset dialogues.parquet

The commands and options are those of `sft_sensibility.py`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ee_trl.training.arguments import ExpertArguments
from ee_trl.training.command_line import recipe_parser, run_recipe


if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig


make_parser = partial(recipe_parser, ExpertArguments, empathy_keep="rationality", output_dir="runs/sft_rationality")


def main(empathy_args: ExpertArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
    """Selects, trains and saves."""
    from ee_trl.training.expert import ExpertRun

    ExpertRun(empathy_args, training_args, model_args).run()


if __name__ == "__main__":
    run_recipe(main, make_parser)
