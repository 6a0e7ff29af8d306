r"""
Trains the router of a mixture that `ee_trl.compose_moe` (or `ee-trl compose`) made of experts, on scored dialogues.

Without arguments, on CPU, on the embedded sample and the experts of a small chat model, which are trained first:

    accelerate launch recipes/sft_moe.py

The mixture of two 8B experts on a single GPU of 80 GB:

    accelerate launch recipes/sft_moe.py \
        --config recipes/configs/moe_8b.yaml --model_name_or_path runs/moe --dataset dialogues.parquet

On several GPUs, with a small LoRA on the attention beside the routers:

    accelerate launch --config_file recipes/accelerate/ddp.yaml recipes/sft_moe.py \
        --config recipes/configs/moe_lora_8b.yaml --model_name_or_path runs/moe --dataset dialogues.parquet

Only the routers learn (with `--use_peft`, a LoRA on the attention too, which is folded in at the end); all other
weights stay as they are. Options, reruns and files: README.md.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ee_trl.training.arguments import MoEArguments
from ee_trl.training.command_line import recipe_parser, run_recipe


if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig


make_parser = partial(recipe_parser, MoEArguments, output_dir="runs/sft_moe", dtype="auto")


def main(empathy_args: MoEArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
    """Selects, trains the routers and saves."""
    from ee_trl.training.router import MoERun

    MoERun(empathy_args, training_args, model_args).run()


if __name__ == "__main__":
    run_recipe(main, make_parser)
