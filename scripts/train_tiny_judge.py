"""
Trains a small causal language model from scratch to answer the rubric's form, so that tests can run
a real judge through every path of the scoring engine without a download.

    python scripts/train_tiny_judge.py "$EE_TRL_DATA/ed_validation_scored.parquet" -o runs/tiny_judge

Do not score data with it (the bundled linear scorer agrees better with the given scores): it exists for tests. With
`--folds N` the script first cross-validates its rank correlation with the given scores (no conversation in two folds)
and writes it to `--results`, with a bootstrap interval.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from scipy.stats import rankdata, spearmanr
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ee_trl.axes import AXES
from ee_trl.data.dialogue import Dialogue, samples_of
from ee_trl.data.formats import FORMATS
from ee_trl.files import package_versions, write_json
from ee_trl.scoring.judge.model import CausalLMScorer
from ee_trl.scoring.judge.packed import shared_cache
from ee_trl.scoring.judge.prompt import Chain, JudgePrompt
from ee_trl.scoring.judge.rubric import Rubric, load_rubric
from ee_trl.scoring.judge.tree import Branch, Trunk, batches_of, tree_inputs, tree_logits, trunks_of


def read(path: str) -> tuple[list[Dialogue], np.ndarray]:
    """The dialogues, and their scores, shape `(n, 2)`."""
    table = pq.read_table(path, columns=["context", "response", *AXES])
    samples = samples_of(FORMATS["context_response"], table.select(["context", "response"]).to_pylist())
    scores = np.stack([table.column(axis).to_numpy() for axis in AXES], axis=1).astype(int)
    kept = [i for i, sample in enumerate(samples) if sample.dialogue is not None]
    return [d for i in kept if (d := samples[i].dialogue) is not None], scores[kept]


def conversations(dialogues: list[Dialogue]) -> np.ndarray:
    """The number of each sample's conversation: a context that begins with the sample before continues it."""
    found, number, last = [], -1, ()
    for d in dialogues:
        if not last or d.context[: len(last)] != last:
            number += 1
        last = (*d.context, d.response)
        found.append(number)
    return np.array(found)


def make_tokenizer(dialogues: list[Dialogue], rubric: Rubric, vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level, with one token for each digit, so that 10 is two tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    split = pre_tokenizers.Digits(individual_digits=True)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([rubric.text, *(t for d in dialogues for t in (*d.context, d.response))], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def loss_of(model: Any, prompt: JudgePrompt, branch: Branch, batch: list[Trunk], scores: np.ndarray) -> torch.Tensor:
    """
    Cross-entropy of the answers' tokens over a batch of dialogues that share the rubric and their turns.

    The last two places of each chain (see [`answering`]) hold the answer: its first digit, and the 0 of 10 or the end
    of the line. The model learns what follows the question and each of them.
    """
    inputs = tree_inputs(batch, branch, len(prompt.prefix))
    newline = prompt.tokenizer("\n", add_special_tokens=False)["input_ids"][0]
    rows, most = len(batch), inputs.keep.numel() // (3 * len(AXES))
    targets = torch.full((rows, most, len(AXES), 3), -100)
    ids = inputs.input_ids.clone()
    places = inputs.keep.view(most, len(AXES), 3)
    for row, trunk in enumerate(batch):
        for n, (sample, _) in enumerate(trunk.samples):
            for a, chain in enumerate(prompt.chains):
                value = int(scores[sample, a])
                after = chain.second if value == 10 and chain.second is not None else newline
                ids[row, places[n, a, 1]], ids[row, places[n, a, 2]] = chain.first[value], after
                targets[row, n, a] = torch.tensor([chain.first[value], after, newline if value == 10 else -100])
    logits = tree_logits(model, replace(inputs, input_ids=ids), shared_cache(model, prompt.prefix))
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)


def answering(chain: Chain) -> Chain:
    """The chain with a place for each of the two tokens of an answer; the token after each place is read."""
    return replace(chain, tokens=(*chain.tokens, chain.first[0]), reads=3)


def train(
    dialogues: list[Dialogue], scores: np.ndarray, tokenizer: Any, args: argparse.Namespace, label: str
) -> CausalLMScorer:
    """Trains a judge from scratch."""
    torch.manual_seed(args.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden_size,
        intermediate_size=2 * args.hidden_size,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden_size // 32,
        max_position_embeddings=2048,
        attention_dropout=0.1,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    rubric = load_rubric(args.rubric)
    prompt = JudgePrompt(tokenizer, rubric)
    if any(chain.reads != 2 for chain in prompt.chains):
        raise SystemExit("this training needs a tokenizer that writes 10 as two tokens")
    branch = Branch.of(prompt.head, [answering(chain) for chain in prompt.chains])
    batches = list(batches_of(trunks_of([prompt.turns(d) for d in dialogues]), len(branch.tokens), args.token_budget))
    steps = args.epochs * len(batches)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.learning_rate, total_steps=steps, pct_start=0.1)
    order = np.random.default_rng(args.seed)
    with tqdm(total=steps, desc=label, disable=None) as bar:
        for _ in range(args.epochs):
            for i in order.permutation(len(batches)):
                loss = loss_of(model, prompt, branch, batches[i], scores)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                bar.set_postfix(loss=f"{loss.item():.3f}")
                bar.update()
    return CausalLMScorer(model.eval(), tokenizer, rubric=rubric)


def interval(predicted: np.ndarray, given: np.ndarray, resamples: int = 1_000) -> dict[str, float]:
    """Spearman's rank correlation with its bootstrap 95 % interval."""
    rng = np.random.default_rng(0)
    draws = [rng.integers(len(given), size=len(given)) for _ in range(resamples)]
    low, high = np.percentile([spearmanr(predicted[d], given[d]).statistic for d in draws], [2.5, 97.5])
    return {"spearman": float(spearmanr(predicted, given).statistic), "low": float(low), "high": float(high)}


def cross_validate(dialogues: list[Dialogue], scores: np.ndarray, args: argparse.Namespace) -> dict[str, Any]:
    """Held-out rank correlation for each axis, over the folds that run (`--only-folds` for fewer than all)."""
    groups = conversations(dialogues)
    fold_of = np.random.default_rng(args.seed).integers(args.folds, size=groups.max() + 1)[groups]
    predicted = np.full(scores.shape, np.nan)
    by_fold = []
    for fold in range(args.only_folds or args.folds):
        inside = np.flatnonzero(fold_of != fold)
        chosen = [dialogues[i] for i in inside]
        tokenizer = make_tokenizer(chosen, load_rubric(args.rubric), args.vocab_size)
        judge = train(chosen, scores[inside], tokenizer, args, f"fold {fold + 1}")
        held_out = np.flatnonzero(fold_of == fold)
        found = judge.score([dialogues[i] for i in held_out])
        rho = [float(spearmanr(found[:, a], scores[held_out, a]).statistic) for a in range(2)]
        by_fold.append(dict(zip(AXES, rho, strict=True)))
        # each fold's judge has a scale of its own, so pool ranks and not scores
        predicted[held_out] = rankdata(found, axis=0) / len(held_out)
        print(f"fold {fold + 1}: Spearman {rho[0]:.3f} (S), {rho[1]:.3f} (R)", flush=True)
    seen = ~np.isnan(predicted[:, 0])
    return {
        "held_out": int(seen.sum()),
        "spearman_by_fold": by_fold,
        **{axis: interval(predicted[seen, a], scores[seen, a]) for a, axis in enumerate(AXES)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="parquet with context, response, sensibility, rationality (integers 0 to 10)")
    parser.add_argument("-o", "--output", help="folder to write the judge to, trained on all of the data")
    parser.add_argument("--folds", type=int, default=0, help="cross-validate with N folds first (default: none)")
    parser.add_argument("--only-folds", type=int, help="run only the first N folds")
    parser.add_argument("--results", help="JSON file for the cross-validated figures")
    parser.add_argument("--limit", type=int, help="only the first N samples")
    parser.add_argument("--rubric", help="a text file that replaces the bundled rubric")
    parser.add_argument("--epochs", type=int, default=3, help="(default: 3)")
    parser.add_argument("--hidden-size", type=int, default=128, help="a multiple of 64 (default: 128)")
    parser.add_argument("--layers", type=int, default=2, help="(default: 2)")
    parser.add_argument("--vocab-size", type=int, default=4_000, help="(default: 4000)")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="(default: 2e-3)")
    parser.add_argument("--token-budget", type=int, default=3_000, help="tokens in a batch (default: 3000)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    args = parser.parse_args()
    if not args.output and not args.folds:
        parser.error("nothing to do: give -o FOLDER, --folds N, or both")
    dialogues, scores = read(args.data)
    dialogues, scores = dialogues[: args.limit], scores[: args.limit]
    start = time.perf_counter()
    if args.folds:
        found = cross_validate(dialogues, scores, args)
        only = f"--only-folds {args.only_folds} " if args.only_folds else ""
        settings = {k: v for k, v in vars(args).items() if k not in ("data", "output", "results")}
        record = {
            "command": "python scripts/train_tiny_judge.py $EE_TRL_DATA/ed_validation_scored.parquet "
            f"--folds {args.folds} {only}--results benchmarks/results/tiny_judge_cv.json",
            "settings": settings,
            "seconds": round(time.perf_counter() - start),
            "versions": package_versions("ee-trl", "torch", "transformers"),
            **found,
        }
        print(json.dumps(record, indent=2))
        if args.results:
            write_json(args.results, record)
    if args.output:
        tokenizer = make_tokenizer(dialogues, load_rubric(args.rubric), args.vocab_size)
        judge = train(dialogues, scores, tokenizer, args, "all")
        judge.model.save_pretrained(args.output)
        judge.tokenizer.save_pretrained(args.output)
        print(f"wrote {args.output}: {judge.model.num_parameters():,} parameters")


if __name__ == "__main__":
    main()
