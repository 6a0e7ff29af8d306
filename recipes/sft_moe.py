r"""
Trains the router of a mixture that `ee_trl.compose_moe` (or `ee-trl compose`) made of experts, on scored dialogues.

Without arguments, on CPU, on the embedded sample and a mixture of two tiny random models:

    accelerate launch recipes/sft_moe.py

The mixture of two 8B experts on a single GPU of 80 GB:

    accelerate launch recipes/sft_moe.py \
        --config recipes/configs/moe_8b.yaml --model_name_or_path runs/moe --dataset dialogues.parquet

On several GPUs, with a small LoRA on the attention beside the routers:

    accelerate launch --config_file recipes/accelerate/ddp.yaml recipes/sft_moe.py \
        --config recipes/configs/moe_lora_8b.yaml --model_name_or_path runs/moe --dataset dialogues.parquet

Only the routers learn (with `--use_peft`, a LoRA on the attention too, which is folded in at the end); all else is
saved as it was. Every key of a YAML file can be given on the command line; an unknown one is an error. A rerun of the
same command resumes; another run in the same folder is refused. How it routes, before and after training, is in
`router_report.md` of that folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig, TrlParser

    from ee_trl.training.arguments import MoEArguments


def main(empathy_args: MoEArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
    """Selects, trains the routers and saves."""
    from ee_trl.moe.training import RouterSFTTrainer
    from ee_trl.training.router import MoERun

    run = MoERun(empathy_args, training_args, model_args)
    if run.finished:
        print(f"{run.folder} is finished already; nothing to do. For another run give another --output_dir.")
        return
    train_dataset, eval_dataset = run.select()
    training_args.model_init_kwargs = run.model_init_kwargs()
    trainer = RouterSFTTrainer(
        model=run.model,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        peft_config=run.peft_config(),
    )
    run.measure(trainer)
    run.train(trainer)
    trainer.merge()
    run.measure(trainer)
    run.save(trainer)
    run.end(trainer)


def make_parser() -> TrlParser:
    """TRL's arguments for training and model, and ours for the data."""
    from trl import ModelConfig, SFTConfig, TrlParser

    from ee_trl.training.arguments import MoEArguments

    parser = TrlParser([MoEArguments, SFTConfig, ModelConfig])  # type: ignore[list-item]
    parser.set_defaults(output_dir="runs/sft_moe", dtype="auto")
    return parser


if __name__ == "__main__":
    from ee_trl.training.arguments import run_recipe

    run_recipe(main, make_parser())
