"""[`distill`]: from judged samples to a folder with a small scorer, its report and its card."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..axes import AXES, DEFAULT_THRESHOLD, Threshold, thresholds
from ..display import Displayed, Table
from ..errors import FormatError, TrainingError, require
from ..reports.agreement import agree
from ..reports.distillation import NAMES, shares_by_threshold, write_distillation
from ..reports.rubric import rubric_of_file
from ..scoring.calibration import calibrate, knots_of
from ..scoring.encoder import SETTINGS_FILE, WORDS_FILE, EncoderSettings
from ..scoring.judged import Judged, folds_of, held_out_of, open_judged
from .fit import FitOptions, Fitted, fit


if TYPE_CHECKING:
    from ..data.tables import AnyDataset

logger = logging.getLogger(__name__)

_PARTS = 5  # of the held-out samples: each is calibrated on the others


@dataclass(frozen=True)
class Distilled(Displayed):
    """
    What [`distill`] made. Prints as a table.

    Args:
        folder (`Path`): The scorer: `EmpathyDataSelector(folder)`.
        report (`dict`): What `report.json` holds.
    """

    folder: Path
    report: dict[str, Any]

    def parts(self) -> Iterable[str | Table]:
        """For a notebook."""
        from ..reports.distillation import report_parts

        return report_parts(self.report)

    def __str__(self) -> str:
        from ..reports.distillation import report_text

        return report_text(self.report)


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
    seed: int = 0,
    trust_remote_code: bool = False,
    overwrite: bool = False,
) -> Distilled:
    """
    Distils a judge: fits an encoder with a head of two outputs to its scores, and says how far the two agree.

    A slice of the conversations is held out, a first fit to the others is measured on it, and calibrated on it so that
    a threshold keeps the judge's shares; the scorer that is saved is then fitted to all samples. What is reported of
    the held-out slice is calibrated on other parts of it, so that no sample is measured by what it helped to set.

    Args:
        scored (`Dataset`, `IterableDataset`, `str` or `os.PathLike`):
            Dialogues with the columns `sensibility` and `rationality`, from a judge or from people; some thousand do.
        encoder (`str` or `os.PathLike`):
            Hub id or folder of an encoder that `AutoModelForSequenceClassification` loads.
        output (`str` or `os.PathLike`):
            The folder to write.
        method, epochs, learning_rate, batch_size, lora_rank, bf16, words, seed:
            See [`~ee_trl.distillation.fit.FitOptions`].
        max_length, text:
            See [`~ee_trl.scoring.encoder_inputs.EncoderInputs`].
        held_out (`float`, *optional*, defaults to `0.1`):
            Share of the samples held out, in whole conversations.
        folds (`int`, *optional*):
            Cross-validation with so many folds, in the place of the held-out slice.
        curve (`Iterable[int]`, *optional*):
            Numbers of judged samples: as many further fits, each measured on the held-out slice.
        threshold, ties (*optional*, default to `5.0` and `"drop"`):
            At which the three-way agreement is told; the scorer can be used at any.
        price_per_hour (`float`, *optional*):
            Of this machine, in whatever currency, for the cost in the report.
        rubric (`str`, *optional*):
            What the judge was asked, for the report; by default as a file that `ee-trl score` wrote says.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code that comes with the encoder may run.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether files in `output` may be replaced.

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
    from ..scoring.encoder_inputs import EncoderInputs

    for module in ("scipy.sparse", "sklearn.decomposition"):
        require(module, extra="report", purpose="distillation")
    inputs = EncoderInputs(max_length, text)
    options = FitOptions(method, epochs, learning_rate, batch_size, inputs, lora_rank, bf16, seed, words)
    pair = thresholds(threshold)
    folder = _output_folder(output, overwrite)
    sizes = _sizes(curve)
    _check_split(held_out, folds)
    if rubric is None and isinstance(scored, (str, os.PathLike)):
        rubric = rubric_of_file(scored)
    judged = open_judged(scored)
    run = _Run(judged, encoder, options, trust_remote_code)
    run.check(held_out, folds, sizes)
    measured = run.cross_validated(folds) if folds else run.held_out(held_out)
    points = run.curve(sizes, measured)
    final = run.fit(np.ones(len(judged), bool), "all samples")
    knots = moved(knots_of(measured.raw, measured.scores), measured.seen, run.raw_of_seen(final))
    settings = EncoderSettings(inputs, knots, words)
    _save(final, settings, folder)
    report = {
        "encoder": _name(encoder),
        "samples": len(judged),
        "conversations": int(judged.conversations.max() + 1),
        "left_out": judged.left_out,
        "judges": list(judged.judges),
        "rubric": rubric,
        "options": {**asdict(options), "learning_rate": options.rate, "bf16": options.precision},
        "split": measured.split,
        "agreement": agree(measured.scores, measured.predicted, pair, ties).to_dict(),
        "encoder_alone": measured.alone,
        "shares": shares_by_threshold(measured.scores, measured.predicted, ties),
        "by_fold": measured.by_fold,
        "curve": points,
        "cost": run.cost(price_per_hour, measured, final),
        "parameters": sum(p.numel() for p in final.model.parameters()),
    }
    write_distillation(folder, report, measured.scores, measured.predicted)
    return Distilled(folder, report)


@dataclass(frozen=True)
class Measured:
    """
    Samples that a fit did not see, with its predictions.

    Args:
        where (`np.ndarray` of shape `(n,)`, of `bool`): Which of all samples they are.
        raw (`np.ndarray` of shape `(m, 2)`): Predictions before calibration.
        predicted (`np.ndarray` of shape `(m, 2)`): The same, calibrated on others of them.
        scores (`np.ndarray` of shape `(m, 2)`): The judge's.
        split (`dict`): How they were held out.
        by_fold (`list[dict]`): Of a cross-validation, each fold's Spearman and kappa.
        seconds (`float`): That predicting them took.
        seen (`np.ndarray` of shape `(k, 2)`): Raw predictions of the fit for some of the samples that it saw.
        alone (`dict`): Agreement of the encoder without the words.
    """

    where: np.ndarray
    raw: np.ndarray
    predicted: np.ndarray
    scores: np.ndarray
    split: dict[str, Any]
    by_fold: list[dict[str, Any]]
    seconds: float
    seen: np.ndarray
    alone: dict[str, Any]


class _Run:
    """The fits of one distillation, and what they took."""

    def __init__(self, judged: Judged, encoder: Any, options: FitOptions, trust_remote_code: bool) -> None:
        self.judged, self.encoder, self.options = judged, encoder, options
        self.trust_remote_code = trust_remote_code
        self.seconds: dict[str, float] = {}
        self.chosen: np.ndarray = np.empty(0, np.intp)  # some samples that both the first and the last fit saw

    def fit(self, where: np.ndarray, what: str) -> Fitted:
        part = self.judged.part(where)
        logger.info("fitting to %s (%d)", what, len(part))
        fitted = fit(part.dialogues, part.scores, self.encoder, self.options, self.trust_remote_code)
        self.seconds[what] = fitted.seconds
        return fitted

    def check(self, share: float, folds: int | None, sizes: list[int]) -> None:
        """Raises [`TrainingError`], before anything is fitted, for what the conversations are too few for."""
        conversations, found = self.judged.conversations, int(self.judged.conversations.max() + 1)
        if folds is not None and folds > found:
            raise TrainingError(f"{folds} folds are more than the {found} conversations (unlike first utterances)")
        if folds is not None and not sizes:
            return
        share = 1 / folds if folds else share
        where = held_out_of(conversations, share, self.options.seed)
        outside, inside = (len(np.unique(conversations[side])) for side in (where, ~where))
        if outside < 2 or inside < 1:
            raise TrainingError(
                f"held_out {share:g} of {found} conversations (unlike first utterances) holds {outside} out and "
                f"leaves {inside} to fit to; at least 2 and 1 are needed. Give another held_out, or more conversations"
            )
        if sizes and sizes[-1] > (left := int((~where).sum())):
            raise TrainingError(f"the curve asks for {sizes[-1]} samples, but {left} are not held out")

    def held_out(self, share: float) -> Measured:
        where = held_out_of(self.judged.conversations, share, self.options.seed)
        fitted = self.fit(~where, "all but the held-out slice")
        outside = self.judged.part(where)
        start = time.perf_counter()
        alone = fitted.raw(outside.dialogues)
        raw = fitted.mixed(alone, outside.dialogues)
        seconds = time.perf_counter() - start
        parts = folds_of(outside.conversations, _PARTS, self.options.seed)
        split = {"kind": "held out", "share": share, "samples": len(outside)}
        predicted = cross_calibrated(raw, outside.scores, parts)
        self.chosen = _some(np.flatnonzero(~where))
        seen = self.raw_of_seen(fitted)
        by_encoder = summary_of(outside.scores, cross_calibrated(alone, outside.scores, parts))
        return Measured(where, raw, predicted, outside.scores, split, [], seconds, seen, by_encoder)

    def cross_validated(self, folds: int) -> Measured:
        fold = folds_of(self.judged.conversations, folds, self.options.seed)
        raw, alone, seconds = *np.empty((2, len(self.judged), len(AXES))), 0.0
        for number in range(folds):
            fitted = self.fit(fold != number, f"all but fold {number + 1} of {folds}")
            start = time.perf_counter()
            outside = self.judged.part(fold == number).dialogues
            alone[fold == number] = fitted.raw(outside)
            raw[fold == number] = fitted.mixed(alone[fold == number], outside)
            seconds += time.perf_counter() - start
            if number == 0:
                self.chosen = _some(np.flatnonzero(fold != 0))
                seen = self.raw_of_seen(fitted)
        scores = self.judged.scores
        predicted = cross_calibrated(raw, scores, fold)
        by_fold = [summary_of(scores[fold == n], predicted[fold == n]) for n in range(folds)]
        split = {"kind": "cross-validation", "folds": folds, "samples": len(self.judged)}
        by_encoder = summary_of(scores, cross_calibrated(alone, scores, fold))
        everyone = np.ones(len(self.judged), bool)
        return Measured(everyone, raw, predicted, scores, split, by_fold, seconds, seen, by_encoder)

    def curve(self, sizes: list[int], measured: Measured) -> list[dict[str, Any]]:
        """Agreement by number of judged samples: each size holds the smaller ones, and no held-out conversation."""
        if not sizes:
            return []
        if measured.where.all():  # cross-validated: there is no slice yet
            share = 1 / measured.split["folds"]
            where = held_out_of(self.judged.conversations, share, self.options.seed)
        else:
            where = measured.where
        outside, left = self.judged.part(where), np.flatnonzero(~where)
        order = np.random.default_rng(self.options.seed).permutation(left)
        parts = folds_of(outside.conversations, _PARTS, self.options.seed)
        points = []
        for size in sizes:
            fitted = self.fit(np.isin(np.arange(len(self.judged)), order[:size]), f"{size} for the curve")
            raw = fitted.mixed(fitted.raw(outside.dialogues), outside.dialogues)
            predicted = cross_calibrated(raw, outside.scores, parts)
            points.append({"labels": size, **summary_of(outside.scores, predicted)})
        return points

    def raw_of_seen(self, fitted: Fitted) -> np.ndarray:
        """Raw predictions for some samples that were fitted to."""
        dialogues = [self.judged.dialogues[i] for i in self.chosen]
        return fitted.mixed(fitted.raw(dialogues), dialogues)

    def cost(self, price_per_hour: float | None, measured: Measured, final: Fitted) -> dict[str, Any]:
        total = sum(self.seconds.values()) + measured.seconds
        return {
            "fit_seconds": {name: round(seconds, 1) for name, seconds in self.seconds.items()},
            "seconds": round(total, 1),
            "judge_labels": len(self.judged),
            "samples_per_second": round(len(measured.scores) / max(measured.seconds, 1e-9), 1),
            "price_per_hour": price_per_hour,
            "cost": None if price_per_hour is None else round(total / 3600 * price_per_hour, 4),
        }


def cross_calibrated(raw: np.ndarray, scores: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Predictions on the judge's scale, those of each part calibrated on the others."""
    predicted = np.empty_like(raw)
    for number in np.unique(part):
        inside = part == number
        predicted[inside] = calibrate(raw[inside], knots_of(raw[~inside], scores[~inside]))
    return predicted


def moved(knots: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """
    The knots of one fit for another, whose raw predictions may lie elsewhere and be wider.

    Args:
        knots (`np.ndarray` of shape `(2, 11)`): Of the first fit.
        first, last (`np.ndarray` of shape `(k, 2)`): Raw predictions of both fits for samples that both have seen.
    """
    spread = [np.maximum(found.std(axis=0), 1e-9)[:, None] for found in (first, last)]
    centre = [found.mean(axis=0)[:, None] for found in (first, last)]
    return (knots - centre[0]) / spread[0] * spread[1] + centre[1]


def _some(numbers: np.ndarray, most: int = 1_000) -> np.ndarray:
    """At most so many of them, evenly spaced."""
    return numbers[np.linspace(0, len(numbers) - 1, min(most, len(numbers))).astype(np.intp)]


def summary_of(scores: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """Spearman of each axis, three-way agreement and kappa at T = 5."""
    found = agree(scores, predicted, resamples=0)
    spearman = {axis: row["spearman"] for axis, row in found.axes.items()}
    return {"spearman": spearman, "agreement": found.three_way["agreement"], "kappa": found.three_way["kappa"]}


# ---- in and out ----------------------------------------------------------------------------------------------------


def _output_folder(output: str | os.PathLike[str], overwrite: bool) -> Path:
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise FormatError(f"{str(folder)!r} is a file; name a folder")
    there = [name for name in (SETTINGS_FILE, "config.json", *NAMES) if (folder / name).exists()]
    if there and not overwrite:
        raise FormatError(f"{str(folder / there[0])!r} is there already; give another folder, or overwrite it")
    return folder


def _sizes(curve: Iterable[int]) -> list[int]:
    sizes = sorted(curve)
    if any(not isinstance(size, (int, np.integer)) or size < 2 for size in sizes):
        raise TrainingError(f"the curve {sizes} is not of whole numbers of at least 2")
    return [int(size) for size in sizes]


def _check_split(held_out: float, folds: int | None) -> None:
    if folds is not None and (not isinstance(folds, int) or folds < 2):
        raise TrainingError(f"folds {folds} is not a whole number of at least 2")
    if not 0 < held_out < 1:
        raise TrainingError(f"held_out {held_out!r} is not a share between 0 and 1")


def _name(encoder: str | os.PathLike[str]) -> str:
    """A hub id as it is; of a folder its name alone, since a card is published."""
    return Path(encoder).name if Path(encoder).is_dir() else os.fspath(encoder)


def _save(final: Fitted, settings: EncoderSettings, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.safetensors"):  # a model of several files leaves none behind for one of one
        old.unlink()
    final.model.save_pretrained(folder)
    final.tokenizer.save_pretrained(folder)
    if final.words is not None:
        np.savez_compressed(folder / WORDS_FILE, **{**final.words, "knots": settings.knots})  # type: ignore[arg-type]
    settings.save(folder)
