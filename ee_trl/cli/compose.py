"""`ee-trl compose`: composes a base and its experts into one mixture."""

from __future__ import annotations

import argparse
from typing import Any

from . import options


def add_compose(commands: Any) -> None:
    """Adds `ee-trl compose`."""
    parser = options.new_command(
        commands,
        "compose",
        run_compose,
        "meta-llama/Meta-Llama-3-8B-Instruct -o runs/moe "
        "-e sensibility=runs/sft_sensibility -e rationality=runs/sft_rationality",
    )
    add = parser.add_argument
    add("base", help="the dense model that the experts were trained from: a folder or hub name")
    add(
        "-e", "--expert", action="append", required=True, metavar="NAME=PATH", help="a LoRA or a full model; repeat it"
    )
    add("-o", "--output", required=True, help="folder to write; it must not exist")
    add("--average", action="store_true", help="write the dense mean of the experts instead: a baseline")
    add("--shared", default="average", help="source of other weights: average, base or an expert (default: average)")
    add("--top-k", type=int, metavar="K", help="experts active for each token (default: all)")
    add("--gate-init", help="zeros, prototype or probe (default: probe with --gate-data, else zeros)")
    add("--gate-data", action="append", metavar="NAME=FILE", help="an expert's dialogues; repeat it for each expert")
    add("--gate-samples", type=int, default=256, metavar="N", help="dialogues of each expert (default: 256)")
    add("--dtype", help="of the weights: float32, bfloat16 or float16 (default: unchanged)")
    add("--max-shard-size", default="1GB", metavar="SIZE", help="largest size of a file (default: 1GB)")
    add("--trust-base", action="store_true", help="accept experts that name another base")
    add("--seed", type=int, default=0, help="of the dialogues drawn for the gates (default: 0)")
    options.add_shared(parser, "json")


def run_compose(args: argparse.Namespace) -> int:
    """
    Compose a base and its experts into one mixture that from_pretrained loads.

    Write a native mixture of experts (Mixtral, Qwen2-MoE, Qwen3-MoE or GraniteMoE, by the base), shard by shard, with
    LoRA folded in. With --gate-data (the training data of each expert) the gates start from a probe that tells the
    sets apart; without it they start at zero.
    """
    from ..moe.compose import average_experts, compose_moe

    experts = options.named_paths("--expert", args.expert)
    same = options.picked(args, "dtype", "max_shard_size", "trust_base")
    if args.average:
        path = average_experts(args.base, experts, args.output, **same)
    else:
        gates = options.picked(args, "gate_init", "gate_samples", "seed", "top_k", "shared")
        data = options.named_paths("--gate-data", args.gate_data) or None
        path = compose_moe(args.base, experts, args.output, gate_data=data, **gates, **same)
    size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    found = {"output": str(path), "experts": list(experts), "bytes": size}
    return options.show(args, found, f"{path}: {', '.join(experts)}; {size / 2**30:,.2f} GiB")
