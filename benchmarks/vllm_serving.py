"""
Does vLLM serve what this package makes: a judge by log probabilities, a mixture, two LoRA experts and their router?

    python benchmarks/vllm_serving.py --vllm serving/bin/vllm --json vllm_serving.json

It starts `vllm serve` for each part, asks it, stops it, and prints a table with what differs from the same model in
transformers. Without `--experts` it trains both experts of the base by the recipes first (some minutes on a GPU).
`--url` asks servers that run already. Nobody has run it on a GPU with vLLM yet; a test runs it against a test server.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ee_trl import CausalLMScorer, EmpathyDataSelector, RequestRouter, ServerScorer, compose_moe, load_sample
from ee_trl.axes import AXES
from ee_trl.display import Table
from ee_trl.evaluation import read_eval_set
from ee_trl.evaluation.candidates import load_candidate
from ee_trl.evaluation.generation import generate_replies
from ee_trl.files import package_versions, read_json, write_json
from ee_trl.moe.serving import RECORD, ROUTER, RoutedModel, vllm_command, write_serving
from ee_trl.reports.agreement import agree


PARTS = ("judge", "mixture", "experts")
Replies = list[str]


@contextmanager
def served(args: argparse.Namespace, command: str, folder: Path) -> Iterator[str]:
    """The address of a server that runs already, or that runs the command, as vLLM's executable, during the block."""
    if args.url:
        yield args.url
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        str(Path(args.vllm).absolute()),
        *shlex.split(command)[1:],
        "--port",
        str(port),
        *shlex.split(args.vllm_args),
    ]
    print("$", shlex.join(words), flush=True)
    server = subprocess.Popen(words, cwd=folder)
    try:
        wait_for(server, f"http://127.0.0.1:{port}/health", args.patience)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait()


def wait_for(server: subprocess.Popen[bytes], url: str, patience: float) -> None:
    """Returns when the server answers; ends the program if the server stops or is silent for too long."""
    until = time.monotonic() + patience
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(1)
    sys.exit(f"vLLM is not ready (its exit status: {server.poll()}, waited at most {patience:g} s)")


def ask(url: str, models: Sequence[str], prompts: Sequence[Any], max_tokens: int) -> tuple[Replies, float]:
    """One greedy reply for each prompt, by the model at its place, and the seconds for all."""
    from openai import OpenAI

    client, start = OpenAI(base_url=url, api_key="none"), time.perf_counter()
    replies = []
    for model, messages in zip(models, prompts, strict=True):
        answer = client.chat.completions.create(model=model, messages=messages, max_tokens=max_tokens, temperature=0)
        replies.append((answer.choices[0].message.content or "").strip())
    return replies, time.perf_counter() - start


def alike(served_replies: Replies, local: Replies) -> dict[str, Any]:
    """How many replies are the same, and the share of their beginning that is."""
    shares = []
    for one, other in zip(served_replies, local, strict=True):
        words = list(zip(one.split(), other.split(), strict=False))
        same = next((i for i, (a, b) in enumerate(words) if a != b), len(words))
        shares.append(same / max(len(one.split()), len(other.split()), 1))
    equal = sum(one == other for one, other in zip(served_replies, local, strict=True))
    return {"replies": len(local), "equal to transformers'": equal, "words in common from the start": np.mean(shares)}


def try_judge(url: str, args: argparse.Namespace) -> dict[str, Any]:
    """Scores by the server, beside those of the same model in this process."""
    dialogues = read_eval_set(limit=args.samples).dialogues
    scorer = ServerScorer(args.judge, base_url=url, extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    start = time.perf_counter()
    scores, _ = scorer.score_with_details(list(dialogues))
    seconds, known = time.perf_counter() - start, ~np.isnan(scores).any(axis=1)
    found = {
        "samples": len(dialogues), "scored": int(known.sum()), "samples a second": len(dialogues) / seconds,
        "scored by": scorer.fingerprint,
    }  # fmt: skip
    if args.local and known.any():
        local = CausalLMScorer(args.judge).score([dialogues[i] for i in np.flatnonzero(known)])
        report = agree(scores[known], local)
        found |= {f"Spearman with transformers, {axis}": report.axes[axis]["spearman"] for axis in AXES}
    return found


def try_mixture(url: str, args: argparse.Namespace) -> dict[str, Any]:
    """Greedy replies of the mixture."""
    name, prompts = str(args.mixture), read_eval_set(limit=args.prompts).prompts
    replies, seconds = ask(url, [name] * len(prompts), prompts, args.max_tokens)
    found = {"seconds": seconds, "words": sum(len(reply.split()) for reply in replies)}
    if args.local:
        local = load_candidate(name)
        options: Any = {"max_new_tokens": args.max_tokens, "batch_size": 1}
        found |= alike(replies, generate_replies(local.model, local.tokenizer, prompts, **options))
    return found


def try_experts(url: str, args: argparse.Namespace) -> dict[str, Any]:
    """Greedy replies of the expert that the router chooses for each prompt, and of each expert for the first."""
    prompts, router = read_eval_set(limit=args.prompts).prompts, RequestRouter.load(args.serving / ROUTER)
    chosen = router.route(prompts)
    replies, seconds = ask(url, chosen, prompts, args.max_tokens)
    both, _ = ask(url, router.experts, [prompts[0]] * len(router.experts), args.max_tokens)
    found = {f"routed to {name}": chosen.count(name) for name in router.experts}
    found |= {"seconds": seconds, "experts differ on the first prompt": len(set(both)) > 1}
    if args.local:
        local = [reply for _, reply in RoutedModel.load(args.serving).reply(prompts, max_new_tokens=args.max_tokens)]
        found |= alike(replies, local)
    return found


def prepare(args: argparse.Namespace) -> None:
    """Trains the experts and composes them, as far as they are not given; writes the folder to serve."""
    named = dict(one.split("=", 1) for one in args.experts)
    for axis in AXES if not named else ():
        folder = args.work / axis
        recipe = Path(__file__).parents[1] / "recipes" / f"sft_{axis}.py"
        settings = Path(__file__).parents[1] / "recipes" / "configs" / "lora_8b.yaml"
        given = ["--config", settings, "--model_name_or_path", args.base, "--output_dir", folder, "--max_steps", 60]
        subprocess.run([sys.executable, str(recipe), *map(str, given)], check=True)
        named[axis] = str(folder)
    args.serving, args.mixture = args.work / "serving", (args.work / "moe").resolve()
    if args.serving.exists() and args.mixture.exists():
        return
    selector = EmpathyDataSelector("linear")
    scored = selector.score(load_sample())
    sets = {name: selector.select(scored, keep=axis) for name, axis in zip(named, AXES, strict=True)}
    if not args.mixture.exists():
        compose_moe(args.base, named, args.mixture, gate_data=sets)
    if not args.serving.exists():
        write_serving(args.base, named, RequestRouter.fit(sets), args.serving)


def main(argv: Sequence[str] | None = None) -> None:
    """Tries each part and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="Qwen/Qwen3-0.6B", help="the experts' base (default: %(default)s)")
    parser.add_argument("--judge", help="the judge's model (default: the base)")
    parser.add_argument(
        "--experts", nargs=2, default=[], metavar="NAME=LORA", help="the sensibility expert, then the rationality one"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/vllm_serving"), help="folder (default: %(default)s)")
    parser.add_argument("--vllm", default="vllm", help="vLLM's executable, e.g. in an environment of its own")
    parser.add_argument(
        "--vllm-args",
        default="--gpu-memory-utilization 0.5",
        help="more options for vllm serve, as one text (default: %(default)s, which leaves room for transformers)",
    )
    parser.add_argument("--patience", type=float, default=900, help="seconds to wait for a server (default: 900)")
    parser.add_argument("--url", help="ask this server instead of starting vLLM, e.g. http://127.0.0.1:8000/v1")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="(default: all)")
    parser.add_argument("--samples", type=int, default=64, help="for the judge (default: 64)")
    parser.add_argument("--prompts", type=int, default=10, help="to reply to (default: 10)")
    parser.add_argument("--max-tokens", type=int, default=48, help="of a reply (default: 48)")
    parser.add_argument("--no-local", dest="local", action="store_false", help="do not compare with transformers")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args(argv)
    args.judge = args.judge or args.base
    if not args.url and not (found := shutil.which(args.vllm)):
        sys.exit(
            f"There is no program {args.vllm!r}. Install vLLM in an environment of its own (python -m venv serving && "
            "serving/bin/pip install vllm) and give --vllm serving/bin/vllm, or ask a running server: --url URL."
        )
    args.vllm = "" if args.url else found
    if {"mixture", "experts"} & set(args.parts):
        prepare(args)
    tries = {"judge": try_judge, "mixture": try_mixture, "experts": try_experts}
    record: dict[str, Any] = {}
    for part in args.parts:
        command, folder = f"vllm serve {shlex.quote(str(args.judge))}", Path()
        if part == "mixture":
            command = f"vllm serve {shlex.quote(str(args.mixture))}"
        elif part == "experts":
            command, folder = vllm_command(read_json(args.serving / RECORD)), args.serving
        with served(args, command, folder) as url:
            record[part] = tries[part](url, args)
    rows = [
        (part, what, f"{value:.3f}" if isinstance(value, float) else str(value))
        for part, found in record.items()
        for what, value in found.items()
    ]
    print(Table(("part", "what", "found"), rows, texts=2).text())
    if args.json:
        write_json(args.json, {**record, "versions": package_versions("ee-trl", "vllm", "torch", "transformers")})


if __name__ == "__main__":
    main()
