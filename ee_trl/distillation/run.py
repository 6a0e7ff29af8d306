"""[`distill`]: from judged samples to a folder with a small scorer, its report and its card."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..axes import AXES, DEFAULT_THRESHOLD, Threshold, thresholds
from ..data.dialogue import Dialogue
from ..display import Displayed, Table
from ..errors import FormatError, TrainingError, check_count, require
from ..files import atomic_folder, is_partial
from ..reports.agreement import agree
from ..reports.check import behaviour_check
from ..reports.rubric import rubric_of_file
from ..scoring.biencoder import HEAD_FILE, appropriateness
from ..scoring.encoder import SETTINGS_FILE, WORDS_FILE, EncoderInputs, EncoderSettings
from ..scoring.judged import Judged, folds_of, held_out_of, open_judged
from ..scoring.kinds import load_single
from ..scoring.linear import calibrate, knots_of
from .fit import FitOptions, Fitted, fit
from .negatives import Negative
from .negatives import negatives as made_replies
from .report import NAMES, report_parts, shares_by_threshold, write_distillation


if TYPE_CHECKING:
    from ..data.tables import AnyDataset

logger = logging.getLogger(__name__)

_WRITTEN = (
    *(SETTINGS_FILE, WORDS_FILE, HEAD_FILE, *NAMES, "config.json", "model*.safetensors*"),
    *(
        "tokenizer*.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.*",
        "merges.txt",
        "*.model",
        "*.jinja",
    ),
    *("configuration_*.py", "modeling_*.py", "tokenization_*.py"),
)  # what a distillation may have written into its folder
_PARTS = 5  # parts of the held-out samples; each is calibrated on the others


@dataclass(frozen=True)
class Distilled(Displayed):
    """What [`distill`] made."""

    folder: Path  # the scorer: `EmpathyDataSelector(folder)`
    report: dict[str, Any]  # what `report.json` holds

    def parts(self) -> Iterable[str | Table]:
        """The fit, its agreement with the judge, and its cost."""
        return report_parts(self.report)


def distill(
    scored: AnyDataset | str | os.PathLike[str],
    encoder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    method: str = "full",
    epochs: float = 3.0,
    learning_rate: float | None = None,
    batch_size: int = 32,
    max_length: int = 128,
    text: str = "canonical",
    lora_rank: int = 16,
    bf16: bool | None = None,
    held_out: float = 0.1,
    folds: int | None = None,
    curve: Iterable[int] = (),
    threshold: Threshold = DEFAULT_THRESHOLD,
    ties: str = "drop",
    price_per_hour: float | None = None,
    rubric: str | None = None,
    words: float = 0.4,
    negatives: str | Sequence[str] = "none",
    negatives_per_sample: float = 2.0,
    false_flags: float = 0.05,
    seed: int = 0,
    trust_remote_code: bool = False,
    overwrite: bool = False,
) -> Distilled:
    """
    Distils a judge: fits an encoder with a head of two outputs to its scores, and reports how far the two agree.

    A slice of the conversations is held out. A first fit to the others is measured on the slice, and calibrated on it
    so that a threshold keeps the judge's shares; then the scorer that is saved is fitted to all samples. For the
    report each part of the slice is calibrated on its other parts, so that no sample helps to calibrate itself.

    Args:
        scored (`Dataset`, `IterableDataset`, `str` or `os.PathLike`):
            Dialogues with the columns `sensibility` and `rationality`, from a judge or from people; a few thousand
            suffice.
        encoder (`str` or `os.PathLike`):
            Hub id or folder of an encoder that `AutoModelForSequenceClassification` loads.
        output (`str` or `os.PathLike`): The folder to write.
        method, epochs, learning_rate, batch_size, lora_rank, bf16, words, seed, negatives, negatives_per_sample,
        false_flags:
            See [`~ee_trl.distillation.fit.FitOptions`].
        max_length, text: See [`~ee_trl.scoring.encoder.EncoderInputs`].
        held_out (`float`, *optional*, defaults to `0.1`): Share of the samples held out, in whole conversations.
        folds (`int`, *optional*): Cross-validate with this many folds, instead of holding out a slice.
        curve (`Iterable[int]`, *optional*):
            Numbers of judged samples: one more fit for each, measured on the held-out slice.
        threshold, ties (*optional*, default to `5.0` and `"drop"`):
            For the three-way agreement in the report; the scorer can be used at any threshold.
        price_per_hour (`float`, *optional*): Price of this machine, in any currency, for the report.
        rubric (`str`, *optional*):
            The judge's rubric, for the report; by default the one that `ee-trl score` noted in the file.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether code that comes with the encoder may run.
        overwrite (`bool`, *optional*, defaults to `False`): Whether a scorer in `output` may be replaced, as a whole.

    Returns:
        [`Distilled`].

    Raises:
        [`ScoresError`]: There are no scores, or too few, or all the same.
        [`TrainingError`]: An option is not valid, or the encoder cannot be loaded.
        [`MissingExtraError`]: The extra `report` is not installed.

    Example:
        ```python
        from ee_trl import EmpathyDataSelector, distill

        distilled = distill("judged.parquet", "microsoft/deberta-v3-small", "distilled")
        print(distilled)
        selector = EmpathyDataSelector("distilled")
        ```
    """
    for module in ("scipy.sparse", "sklearn.decomposition", "matplotlib.figure"):
        require(module, extra="report", purpose="distillation")
    inputs = EncoderInputs(max_length, text)
    fitting = (method, epochs, learning_rate, batch_size, inputs, lora_rank, bf16, seed, words)
    options = FitOptions(*fitting, negatives, negatives_per_sample, false_flags)
    pair = thresholds(threshold)
    folder = _output_folder(output, overwrite)
    sizes = list(curve)
    for size in sizes:
        check_count("the size of a fit for the curve", size, 2, TrainingError)
    sizes.sort()
    if folds is not None:
        check_count("folds", folds, 2, TrainingError)
    if not 0 < held_out < 1:
        raise TrainingError(f"held_out {held_out!r} is not a share between 0 and 1")
    if rubric is None and isinstance(scored, (str, os.PathLike)):
        rubric = rubric_of_file(scored)
    judged = open_judged(scored)
    run = _Run(judged, encoder, options, trust_remote_code)
    if folds:
        fold = run.folds(folds)
        aside = run.slice(1 / folds, sizes) if sizes else fold == 0
        split = {"kind": "cross-validation", "folds": folds}
    else:
        aside = run.slice(held_out, sizes)
        fold = np.where(aside, 0, -1)
        split = {"kind": "held out", "share": held_out}
    flags = run.compare(fold != 0) if options.negatives else ()
    measured = run.measure(fold)
    points = run.curve(sizes, aside)
    final = run.fit(np.ones(len(judged), bool), "all samples")
    knots = moved(knots_of(measured.raw, measured.scores), measured.seen, run.raw_of(final, run.chosen))
    told = run.told(final, fold == 0) if flags else None
    settings = EncoderSettings(inputs, knots, words, flags, tuple(told["cuts"].values()) if told else ())
    with atomic_folder(folder, overwrite=overwrite) as partial:
        _save(final, settings, partial)
        scorer = load_single(partial, trust_remote_code=trust_remote_code)
        report = {
            "encoder": _name(encoder),
            "samples": len(judged),
            "conversations": int(judged.conversations.max() + 1),
            "left_out": judged.left_out,
            "judges": list(judged.judges),
            "rubric": rubric,
            "options": options.record(),
            "split": split | {"samples": len(measured.scores)},
            "agreement": agree(measured.scores, measured.predicted, pair, ties).to_dict(),
            "encoder_alone": measured.alone,
            "check": behaviour_check({"distilled": scorer}, threshold=pair, ties=ties, store=False).scorers,
            "shares": shares_by_threshold(measured.scores, measured.predicted, ties),
            "by_fold": measured.by_fold,
            "curve": points,
            **({"appropriateness": told} if told else {}),
            "cost": run.cost(price_per_hour, measured),
            "parameters": sum(p.numel() for p in final.model.parameters()),
        }
        write_distillation(partial, report, measured.scores, measured.predicted)
    return Distilled(folder, report)


@dataclass(frozen=True)
class Measured:
    """Samples that a fit did not see, with its predictions; arrays of shape `(m, 2)`."""

    raw: np.ndarray  # predictions before calibration
    predicted: np.ndarray  # the same, each part of them calibrated on the others
    scores: np.ndarray  # the judge's
    by_fold: list[dict[str, Any]]  # Spearman and kappa of each fold in a cross-validation
    alone: dict[str, Any]  # agreement of the encoder without the words
    seen: np.ndarray  # (k, 2) raw predictions of the first fit for some of the samples that it saw
    seconds: float  # how long the predictions took


class _Run:
    """The fits of one distillation, and how long they took."""

    def __init__(self, judged: Judged, encoder: Any, options: FitOptions, trust_remote_code: bool) -> None:
        self.judged, self.encoder, self.options = judged, encoder, options
        self.trust_remote_code = trust_remote_code
        self.seconds: dict[str, float] = {}
        self.chosen: np.ndarray = np.empty(0, np.intp)  # some samples that both the first and the last fit saw
        self.compared: Any = None  # with negatives: the `Compared` that every fit adds its axes to

    def compare(self, where: np.ndarray) -> tuple[str, ...]:
        """Learns to tell replies from made ones, once for all fits; the flags that it learns. It sees no score."""
        from .contrast import learn_to_compare

        dialogues, options = self.judged.part(where).dialogues, self.options
        made = list(negatives_of(dialogues, options, options.seed))
        logger.info("learning to tell %d replies from %d made ones", len(dialogues), len(made))
        self.compared = learn_to_compare(dialogues, made, self.encoder, options, self.trust_remote_code)
        self.seconds["true and made replies"] = self.compared.seconds
        return self.compared.flags

    def told(self, fitted: Fitted, where: np.ndarray) -> dict[str, Any]:
        """How well a fit tells held-out replies from made ones; each flag's cut flags its part of `false_flags`."""
        from sklearn.metrics import roc_auc_score

        dialogues, flags = self.judged.part(where).dialogues, self.compared.flags
        true = fitted.raw(dialogues)[:, len(AXES) :]
        cuts = np.quantile(true, 1 - self.options.false_flags / len(flags), axis=0)
        made = list(negatives_of(dialogues, self.options, self.options.seed + 1))
        odds, kinds = fitted.raw([one.dialogue for one in made])[:, len(AXES) :], np.array([one.kind for one in made])
        fits, fits_made = appropriateness(true, cuts), appropriateness(odds, cuts)
        rows = {}
        for kind in dict.fromkeys(kinds.tolist()):
            of_kind = fits_made[kinds == kind]
            auc = roc_auc_score([1] * len(fits) + [0] * len(of_kind), np.concatenate([fits, of_kind]))
            rows[kind] = {"made": len(of_kind), "auc": float(auc), "flagged": float((of_kind < 0.5).mean())}
        found = {"cuts": dict(zip(flags, cuts.tolist(), strict=True)), "true": len(true)}
        return {**found, "false_flags": float((fits < 0.5).mean()), "kinds": rows}

    def fit(self, where: np.ndarray, what: str) -> Fitted:
        part = self.judged.part(where)
        logger.info("fitting to %s (%d)", what, len(part))
        if self.compared is not None:
            fitted: Fitted = self.compared.with_axes(part.dialogues, part.scores)
        else:
            fitted = fit(part.dialogues, part.scores, self.encoder, self.options, self.trust_remote_code)
        self.seconds[what] = fitted.seconds
        return fitted

    def slice(self, share: float, sizes: Sequence[int]) -> np.ndarray:
        """Which samples are held out; raises [`TrainingError`] if there are too few conversations for it."""
        conversations = self.judged.conversations
        where = held_out_of(conversations, share, self.options.seed)
        outside, inside = (len(np.unique(conversations[side])) for side in (where, ~where))
        if outside < 2 or inside < 1:
            raise TrainingError(
                f"held_out {share:g} of {outside + inside} conversations (different first utterances) holds {outside} "
                f"out and leaves {inside} to fit to; at least 2 and 1 are needed. Give another held_out, or more "
                "conversations"
            )
        if sizes and sizes[-1] > (left := int((~where).sum())):
            raise TrainingError(f"the curve asks for {sizes[-1]} samples, but {left} are not held out")
        return where

    def folds(self, number: int) -> np.ndarray:
        """The fold of each sample; raises [`TrainingError`] if there are more folds than conversations."""
        found = len(np.unique(self.judged.conversations))
        if number > found:
            raise TrainingError(f"{number} folds are more than the {found} conversations (different first utterances)")
        return folds_of(self.judged.conversations, number, self.options.seed)

    def measure(self, fold: np.ndarray) -> Measured:
        """Predicts each fold by a fit to all other samples; samples of fold -1 are in every fit."""
        folds = int(fold.max()) + 1
        raw, alone, seconds = *np.empty((2, len(self.judged), len(AXES))), 0.0
        for number in range(folds):
            name = "all but the held-out slice" if folds == 1 else f"all but fold {number + 1} of {folds}"
            fitted = self.fit(fold != number, name)
            if number == 0:
                inside = np.flatnonzero(fold != 0)  # at most a thousand of them, evenly spaced
                self.chosen = inside[np.linspace(0, len(inside) - 1, min(1_000, len(inside))).astype(np.intp)]
                seen = self.raw_of(fitted, self.chosen)
            start = time.perf_counter()
            outside = self.judged.part(fold == number).dialogues
            alone[fold == number] = fitted.raw(outside)[:, : len(AXES)]
            raw[fold == number] = fitted.mixed(alone[fold == number], outside)
            seconds += time.perf_counter() - start
        where = fold >= 0
        scores, raw, alone, fold = self.judged.scores[where], raw[where], alone[where], fold[where]
        parts = fold if folds > 1 else self.parts_of(where)
        predicted = cross_calibrated(raw, scores, parts)
        by_fold = [summary_of(scores[fold == n], predicted[fold == n]) for n in range(folds) if folds > 1]
        by_encoder = summary_of(scores, cross_calibrated(alone, scores, parts))
        return Measured(raw, predicted, scores, by_fold, by_encoder, seen, seconds)

    def curve(self, sizes: Sequence[int], where: np.ndarray) -> list[dict[str, Any]]:
        """Agreement on a slice by number of judged samples; each size holds the smaller ones."""
        order = np.random.default_rng(self.options.seed).permutation(np.flatnonzero(~where))
        scores, points = self.judged.scores[where], []
        for size in sizes:
            fitted = self.fit(np.isin(np.arange(len(self.judged)), order[:size]), f"{size} for the curve")
            predicted = cross_calibrated(self.raw_of(fitted, where), scores, self.parts_of(where))
            points.append({"labels": int(size), **summary_of(scores, predicted)})
        return points

    def parts_of(self, where: np.ndarray) -> np.ndarray:
        """Parts of a slice, each of which is calibrated on the others."""
        return folds_of(self.judged.conversations[where], _PARTS, self.options.seed)

    def raw_of(self, fitted: Fitted, where: np.ndarray) -> np.ndarray:
        """Raw predictions of the axes for some samples."""
        dialogues = self.judged.part(where).dialogues
        return fitted.mixed(fitted.raw(dialogues)[:, : len(AXES)], dialogues)

    def cost(self, price_per_hour: float | None, measured: Measured) -> dict[str, Any]:
        total = sum(self.seconds.values()) + measured.seconds
        return {
            "fit_seconds": {name: round(seconds, 1) for name, seconds in self.seconds.items()},
            "seconds": round(total, 1),
            "judge_labels": len(self.judged),
            "samples_per_second": round(len(measured.scores) / max(measured.seconds, 1e-9), 1),
            "price_per_hour": price_per_hour,
            "cost": None if price_per_hour is None else round(total / 3600 * price_per_hour, 4),
        }


def negatives_of(dialogues: Sequence[Dialogue], options: FitOptions, seed: int) -> Iterator[Negative]:
    """Made replies for dialogues, as the options want them."""
    return made_replies(dialogues, options.negatives, per_sample=options.negatives_per_sample, seed=seed)


def cross_calibrated(raw: np.ndarray, scores: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Predictions on the judge's scale; each part is calibrated on the other parts."""
    predicted = np.empty_like(raw)
    for number in np.unique(part):
        inside = part == number
        predicted[inside] = calibrate(raw[inside], knots_of(raw[~inside], scores[~inside]))
    return predicted


def moved(knots: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """
    Moves the knots `(2, 11)` of one fit to another fit; its raw predictions may have another centre and spread.

    `first` and `last`, shape `(k, 2)`, are the raw predictions of both fits for samples that both saw.
    """
    spread = [np.maximum(found.std(axis=0), 1e-9)[:, None] for found in (first, last)]
    centre = [found.mean(axis=0)[:, None] for found in (first, last)]
    return (knots - centre[0]) / spread[0] * spread[1] + centre[1]


def summary_of(scores: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """Spearman of each axis, three-way agreement and kappa at T = 5."""
    found = agree(scores, predicted, resamples=0)
    spearman = {axis: row["spearman"] for axis, row in found.axes.items()}
    return {"spearman": spearman, "agreement": found.three_way["agreement"], "kappa": found.three_way["kappa"]}


def _output_folder(output: str | os.PathLike[str], overwrite: bool) -> Path:
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise FormatError(f"{str(folder)!r} is a file; name a folder")
    there = sorted(folder.iterdir()) if folder.exists() else []
    if there and not overwrite:
        raise FormatError(f"{str(there[0])!r} exists already; give another folder, or overwrite it")
    for path in there:
        if not (is_partial(path) or any(path.match(pattern) for pattern in _WRITTEN)):
            raise FormatError(
                f"{str(path)!r} is no part of a distilled scorer, and overwriting replaces the whole folder; move it "
                "away, or give another folder"
            )
    return folder


def _name(encoder: str | os.PathLike[str]) -> str:
    """A hub id as it is, or only the name of a folder, because the card may be published."""
    return Path(encoder).name if Path(encoder).is_dir() else os.fspath(encoder)


def _save(final: Fitted, settings: EncoderSettings, folder: Path) -> None:
    final.save(folder)
    if final.words is not None:
        np.savez_compressed(folder / WORDS_FILE, **{**final.words, "knots": settings.knots})  # type: ignore[arg-type]
    settings.save(folder)
