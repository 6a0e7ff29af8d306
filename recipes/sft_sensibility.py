r"""
Trains a sensibility expert: scores the dialogues, keeps the sensibility set (S > T and R < T), fine-tunes on it.

Without arguments, on CPU, on the embedded sample and a tiny model:

    accelerate launch recipes/sft_sensibility.py

QLoRA of an 8B model on a single GPU:

    accelerate launch recipes/sft_sensibility.py \
        --config recipes/configs/qlora_8b.yaml --dataset dialogues.parquet

The paper's LoRA settings on several GPUs (FSDP2; `zero3.yaml` for DeepSpeed ZeRO-3):

    accelerate launch --config_file recipes/accelerate/fsdp2.yaml recipes/sft_sensibility.py \
        --config recipes/configs/lora_8b.yaml --dataset dialogues.parquet

The baselines of equal size: `--empathy_rule random` and `--empathy_rule longest`. Every key of a YAML file can be
given on the command line; an unknown one is an error. A rerun of the same command resumes; another run in the same
folder is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig, TrlParser

    from ee_trl.training.arguments import ExpertArguments


def main(empathy_args: ExpertArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
    """Selects, trains and saves."""
    from trl import SFTTrainer, get_peft_config, get_quantization_config

    from ee_trl.training.expert import ExpertRun

    run = ExpertRun(empathy_args, training_args, model_args)
    if run.finished:
        print(f"{run.folder} is finished already; nothing to do. For another run give another --output_dir.")
        return
    train_dataset, eval_dataset = run.select()
    training_args.model_init_kwargs = run.model_init_kwargs()
    trainer = SFTTrainer(
        model=run.model,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    run.train(trainer)
    run.save(trainer)
    run.end(trainer)


def make_parser() -> TrlParser:
    """TRL's arguments for training and model, and ours for the selection."""
    from trl import ModelConfig, SFTConfig, TrlParser

    from ee_trl.training.arguments import ExpertArguments

    parser = TrlParser([ExpertArguments, SFTConfig, ModelConfig])  # type: ignore[list-item]
    parser.set_defaults(empathy_keep="sensibility", output_dir="runs/sft_sensibility")
    return parser


if __name__ == "__main__":
    from ee_trl.training.arguments import run_recipe

    run_recipe(main, make_parser())
