r"""
Trains on all dialogues; while it trains, a policy draws and weights them by their sensibility and rationality.

Without arguments, on CPU, on the embedded sample and a tiny model:

    accelerate launch recipes/sft_online.py

QLoRA of an 8B model on a single GPU:

    accelerate launch recipes/sft_online.py \
        --config recipes/configs/online_qlora_8b.yaml --dataset dialogues.parquet

LoRA on several GPUs (FSDP2; `zero3.yaml` for DeepSpeed ZeRO-3):

    accelerate launch --config_file recipes/accelerate/fsdp2.yaml recipes/sft_online.py \
        --config recipes/configs/online_lora_8b.yaml --dataset dialogues.parquet

Another policy, with options: `--empathy_policy curriculum --empathy_policy_options '{"final_share": 0.3}'`. Every key
of a YAML file can be given on the command line; an unknown one is an error. A rerun of the same command resumes;
another run in the same folder is refused. What was drawn is in `empathy_report.md` beside the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig, TrlParser

    from ee_trl.training.arguments import OnlineArguments


def main(empathy_args: OnlineArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
    """Prepares all rows, trains under the policy and saves."""
    from trl import SFTTrainer, get_peft_config, get_quantization_config

    from ee_trl.online.trainer import EmpathySFTTrainer
    from ee_trl.training.online import OnlineRun

    run = OnlineRun(empathy_args, training_args, model_args)
    if run.finished:
        print(f"{run.folder} is finished already; nothing to do. For another run give another --output_dir.")
        return
    train_dataset, eval_dataset = run.prepare()
    training_args.model_init_kwargs = run.model_init_kwargs()
    kwargs: dict[str, Any] = {
        "model": run.model,
        "args": training_args,
        "train_dataset": train_dataset,
        "eval_dataset": eval_dataset,
        "quantization_config": get_quantization_config(model_args),
        "peft_config": get_peft_config(model_args),
    }
    policy, online = empathy_args.empathy_policy, empathy_args.online_options()
    if training_args.packing:
        trainer: Any = EmpathySFTTrainer(**kwargs, selector=run.selector, policy=policy, online=online)
    else:
        trainer = SFTTrainer(**kwargs)
        run.selector.attach(trainer, policy, **online)
    run.train(trainer)
    run.save(trainer)
    run.end(trainer)


def make_parser() -> TrlParser:
    """TRL's arguments for training and model, and ours for data and policy."""
    from trl import ModelConfig, SFTConfig, TrlParser

    from ee_trl.training.arguments import OnlineArguments

    parser = TrlParser([OnlineArguments, SFTConfig, ModelConfig])  # type: ignore[list-item]
    parser.set_defaults(output_dir="runs/sft_online")
    return parser


if __name__ == "__main__":
    from ee_trl.training.arguments import run_recipe

    run_recipe(main, make_parser())
