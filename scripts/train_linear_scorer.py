#!/usr/bin/env python
"""Trains the scorer "linear" on judged dialogues, cross-validates it, and writes weights, metrics and model card.

The data are one parquet file with the columns `context` (list of utterances), `response`, `sensibility` and
`rationality`; rows of one conversation must follow each other. The flags are learnt from true replies (--true) and
bad ones made from them, and measured on others (--unseen). Runs in some minutes on two cores, and gives the same
arrays each time.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from linear_flags import fit_flags, measure_flags
from linear_scorer_card import render
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score

from ee_trl.axes import AXES
from ee_trl.data.dialogue import Dialogue
from ee_trl.distillation.fit import DECIMALS, fit_words
from ee_trl.files import blocks_of, digest, package_versions, read_json, write_json, write_text
from ee_trl.scoring import features as ft
from ee_trl.scoring.judged import folds_of
from ee_trl.scoring.linear import (
    THRESHOLDS,
    WEIGHTS_FILE,
    RawModel,
    calibrate,
    fingerprint_of,
    knots_of,
    load_weights,
    shapes,
)


INNER_FOLDS = 5


# ---- data ----------------------------------------------------------------------------------------------------------


def read(path: str) -> tuple[list[Dialogue], np.ndarray]:
    """Dialogues and the judge's scores, `(n, 2)`."""
    table = pq.read_table(path, columns=list(AXES)).to_pylist()
    return read_dialogues(path), np.array([[row[axis] for axis in AXES] for row in table], np.float64)


def read_dialogues(path: str) -> list[Dialogue]:
    """The dialogues of a file."""
    table = pq.read_table(path, columns=["context", "response"]).to_pylist()
    roles = ("user", "assistant")
    dialogues = []
    for row in table:
        context = tuple(row["context"])
        named = tuple(roles[(len(context) - 1 - i) % 2] for i in range(len(context)))
        dialogues.append(Dialogue(context=context, response=row["response"], roles=named))
    return dialogues


def apart(dialogues: Sequence[Dialogue], *others: Sequence[Dialogue]) -> list[Dialogue]:
    """The dialogues that begin otherwise than all others do."""
    known = {tuple(ft.tokenise(dialogue.context[0])) for part in others for dialogue in part}
    return [dialogue for dialogue in dialogues if tuple(ft.tokenise(dialogue.context[0])) not in known]


def conversations(dialogues: Sequence[Dialogue]) -> np.ndarray:
    """`(n,)` conversation numbers: a row that continues the previous row's context belongs to the same one."""
    numbers, previous = [], None
    for dialogue in dialogues:
        length = len(previous) if previous else 0
        same = length > 0 and len(dialogue.context) > length and dialogue.context[:length] == previous
        numbers.append(numbers[-1] if same else (numbers[-1] + 1 if numbers else 0))
        previous = dialogue.context
    return np.array(numbers)


def rule(scores: np.ndarray, threshold: float) -> np.ndarray:
    """The released rule: 0 sensibility set, 1 rationality set, 2 discarded."""
    s, r = scores[:, 0], scores[:, 1]
    return np.where((s > threshold) & (r < threshold), 0, np.where((r > threshold) & (s < threshold), 1, 2))


# ---- fit -----------------------------------------------------------------------------------------------------------


def train(dialogues: Sequence[Dialogue], scores: np.ndarray, groups: np.ndarray) -> dict[str, np.ndarray]:
    """All arrays of a weights file: the fit to all rows, and a calibration from its out-of-fold predictions."""
    fold, raw = folds_of(groups, INNER_FOLDS, seed=1), np.empty_like(scores)
    for number in range(INNER_FOLDS):
        inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        model = RawModel(fit_words([dialogues[i] for i in inside], scores[inside], most=None))
        raw[outside] = model.predict(ft.extract([dialogues[i] for i in outside]))
    return fit_words(dialogues, scores, most=None) | {"knots": knots_of(raw, scores).round(DECIMALS)}


# ---- measure -------------------------------------------------------------------------------------------------------


def predict(weights: dict[str, np.ndarray], dialogues: Sequence[Dialogue]) -> np.ndarray:
    """The scores of weights before they are written to a file."""
    return calibrate(RawModel(weights).predict(ft.extract(dialogues)), weights["knots"])


def held_out(dialogues: list[Dialogue], scores: np.ndarray, fold: np.ndarray, number: int) -> np.ndarray:
    """Scores of fold `number`, from weights and a calibration that have not seen it."""
    inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
    groups = conversations(dialogues)[inside]
    return predict(train([dialogues[i] for i in inside], scores[inside], groups), [dialogues[i] for i in outside])


def spearman(predicted: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    return {axis: float(spearmanr(predicted[:, i], scores[:, i]).statistic) for i, axis in enumerate(AXES)}


def by_threshold(predicted: np.ndarray, scores: np.ndarray) -> dict[str, dict[str, float]]:
    """Agreement with the judge under the released rule, and the shares of both sets, for each threshold."""
    table = {}
    for t in THRESHOLDS:
        ours, judge = rule(predicted, t), rule(scores, t)
        table[str(t)] = {
            "agreement": float(np.mean(ours == judge)),
            "kappa": float(cohen_kappa_score(judge, ours)),
            "majority_agreement": float(np.bincount(judge).max() / len(judge)),
            "sensibility_share": float(np.mean(ours == 0)),
            "judge_sensibility_share": float(np.mean(judge == 0)),
            "rationality_share": float(np.mean(ours == 1)),
            "judge_rationality_share": float(np.mean(judge == 1)),
        }
    return table


def cross_validate(dialogues: list[Dialogue], scores: np.ndarray, folds: int, seed: int) -> dict:
    """Everything learnt (n-gram rarities, weights, calibration) is learnt from the other folds only."""
    groups = conversations(dialogues)
    fold, predicted, rows = folds_of(groups, folds, seed), np.empty_like(scores), []
    for number in range(folds):
        start, outside = time.perf_counter(), fold == number
        predicted[outside] = held_out(dialogues, scores, fold, number)
        rho, at5 = (
            spearman(predicted[outside], scores[outside]),
            by_threshold(predicted[outside], scores[outside])["5"],
        )
        rows.append({"rows": int(outside.sum()), "spearman": rho, "at_5": at5})
        print(
            f"fold {number + 1} of {folds}: Spearman {rho[AXES[0]]:.3f} / {rho[AXES[1]]:.3f}, kappa "
            f"{at5['kappa']:.3f} ({time.perf_counter() - start:.0f} s)",
            flush=True,
        )
    return {
        "rows": len(scores),
        "conversations": int(groups.max() + 1),
        "folds": folds,
        "seed": seed,
        "spearman_mean_over_folds": {axis: float(np.mean([r["spearman"][axis] for r in rows])) for axis in AXES},
        "spearman_pooled": spearman(predicted, scores),
        "by_threshold_pooled": by_threshold(predicted, scores),
        "by_fold": rows,
    }


def environment() -> dict[str, str]:
    return {"python": platform.python_version()} | package_versions("numpy", "scipy", "scikit-learn")


def build_parser() -> argparse.ArgumentParser:
    summary, details = __doc__.split("\n\n", 1)
    parser = argparse.ArgumentParser(description=summary, epilog=details)
    parser.add_argument("data", metavar="DATA.parquet", help="judged dialogues")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="where weights and card are written")
    parser.add_argument("--true", metavar="FILE.parquet", help="true replies, from which the flags are learnt")
    parser.add_argument("--unseen", metavar="FILE.parquet", help="other true replies, to measure the flags on")
    parser.add_argument("--flags-only", action="store_true", help="keep the axes of FOLDER and their metrics")
    parser.add_argument("--folds", type=int, default=5, help="of the cross-validation, at least 2 (default: 5)")
    parser.add_argument("--seed", type=int, default=3, help="of the split into folds (default: 3)")
    parser.add_argument("--results", metavar="FILE.json", help="write the metrics here too")
    parser.add_argument("--speed", metavar="FILE.json", help="what benchmarks/linear_scorer.py wrote, for the card")
    parser.add_argument("--card-only", action="store_true", help="write the card alone, from FOLDER's metrics.json")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.folds < 2:
        parser.error(f"--folds must be at least 2, not {args.folds}")
    output = Path(args.output)
    if (args.true is None) != (args.unseen is None):
        parser.error("--true and --unseen go together")
    if not args.card_only:
        dialogues, scores = read(args.data)
        groups = conversations(dialogues)
        print(f"{len(scores)} rows, {groups.max() + 1} conversations", flush=True)
        if args.flags_only:
            stored, metrics = load_weights(output), read_json(output / "metrics.json")
            weights = {name: stored[name] for name in shapes()}
        else:
            metrics = cross_validate(dialogues, scores, args.folds, args.seed)
            print("fitting to all rows", flush=True)
            weights = train(dialogues, scores, groups)
        data = {"data": args.data}
        if args.true:
            data |= {"true": args.true, "unseen": args.unseen}
            unseen = read_dialogues(args.unseen)
            print("learning flags", flush=True)
            weights |= fit_flags(apart(read_dialogues(args.true), dialogues, unseen), dialogues, args.seed)
            metrics["flags"] = measure_flags(weights, apart(unseen, dialogues), args.seed)
        output.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(output / WEIGHTS_FILE, **weights)
        names = {key: Path(path).name for key, path in data.items()}
        flags = f" --true {names['true']} --unseen {names['unseen']}" if args.true else ""
        command = f"python scripts/train_linear_scorer.py {names['data']} -o FOLDER{flags} --folds {args.folds}"
        origin = {"command": f"{command} --seed {args.seed}"}
        origin |= {f"{key}_sha256": digest(blocks_of(Path(path)), 64) for key, path in data.items()}
        metrics |= {"fingerprint": fingerprint_of(weights), "versions": environment()} | origin
        for path in filter(None, (output / "metrics.json", args.results)):
            write_json(path, metrics)
    metrics = read_json(output / "metrics.json")
    write_text(output / "README.md", render(metrics, read_json(args.speed) if args.speed else None))
    print(f"written: {output}, {metrics['fingerprint']}")


if __name__ == "__main__":
    main()
