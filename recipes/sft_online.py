r"""
Trains on all dialogues; while it trains, a policy draws and weights them by their sensibility and rationality.

Without arguments, on CPU, on the embedded sample and a small chat model:

    accelerate launch recipes/sft_online.py

QLoRA of an 8B model on a single GPU:

    accelerate launch recipes/sft_online.py \
        --config recipes/configs/online_qlora_8b.yaml --dataset dialogues.parquet

LoRA on several GPUs (FSDP2; `zero3.yaml` for DeepSpeed ZeRO-3):

    accelerate launch --config_file recipes/accelerate/fsdp2.yaml recipes/sft_online.py \
        --config recipes/configs/online_lora_8b.yaml --dataset dialogues.parquet

Another policy, with options: `--empathy_policy curriculum --empathy_policy_options '{"final_share": 0.3}'`. Options,
reruns and files: README.md.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ee_trl.training.arguments import OnlineArguments
from ee_trl.training.command_line import recipe_parser, run_recipe


if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig


make_parser = partial(recipe_parser, OnlineArguments, output_dir="runs/sft_online")


def main(empathy_args: OnlineArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
    """Prepares all rows, trains under the policy and saves."""
    from ee_trl.training.online import OnlineRun

    OnlineRun(empathy_args, training_args, model_args).run()


if __name__ == "__main__":
    run_recipe(main, make_parser)
