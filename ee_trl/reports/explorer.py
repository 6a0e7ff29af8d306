"""
The explorer: one offline page on which users choose thresholds by looking at what these keep and drop.

Its sliders move in steps of a tenth. A score either equals k / 10 or lies between two neighbours, so 201 bins an axis
tell whether it is above, below or equal to each threshold k / 10, which is all that [`~ee_trl.selection`] needs. The
page counts in a sparse histogram of these bins; its size does not grow with the data set.
"""

from __future__ import annotations

import os
import re
import shlex
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import compress

import numpy as np
from numpy.typing import ArrayLike

from ..axes import (
    DEFAULT_THRESHOLD,
    FLAGS,
    MAX_SCORE,
    RATIONALITY,
    SENSIBILITY,
    TIES,
    Threshold,
    scores_array,
    thresholds,
)
from ..data.columns import Coded
from ..data.dialogue import REASONS, SCORED, Sample
from ..data.formats import recognise
from ..data.reading import opened
from ..data.samples import Batch, Scores, batches_of, read_scores, sample_columns
from ..data.tables import BATCH_ROWS, chosen_rows, features_of, only_columns, tables_of
from ..errors import FormatError, SelectionError, check_choice, check_count, options_named, require
from ..files import check_output, json_text, write_text
from ..selection import keep_set
from .rubric import rubric_of_file


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    from ..data.tables import AnyDataset

ENDINGS = (".html", ".htm")
STEPS = 10  # positions of a slider in one point
BINS = 2 * STEPS * int(MAX_SCORE) + 1
"""Bins of an axis: bin 2k holds the scores equal to k / 10, bin 2k + 1 those between k / 10 and (k + 1) / 10."""
DEFAULT_LIMIT = 50_000
MOST_EMOTIONS = 200
MOST_TURNS, MOST_CHARACTERS, MOST_TEXT = 24, 1_000, 60_000_000
"""Limits: turns shown of a dialogue, characters of a turn, and characters of all texts of a page."""
EACH_CELL = 10
"""This many texts of each half-point cell of the plane are drawn first, so that each cell has some to show."""


@options_named
def write_explorer(
    scored: AnyDataset | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    threshold: Threshold = DEFAULT_THRESHOLD,
    ties: str = "drop",
    keep: Any = SENSIBILITY,
    limit: int = DEFAULT_LIMIT,
    seed: int = 0,
    overwrite: bool = False,
    source: str | None = None,
    split: str | None = None,
    config: str | None = None,
) -> Path:
    """
    Writes a page on which to choose thresholds: the score plane, what is in each quadrant, and the dialogues.

    The page is one file that needs neither a server nor a network. Counts and shares are exact whatever the size of
    the data set; the page holds the texts of up to `limit` dialogues.

    Args:
        scored (`Dataset`, `IterableDataset`, `str` or `os.PathLike`):
            The result of [`EmpathyDataSelector.score`], or data with columns `sensibility` and `rationality`.
        output (`str` or `os.PathLike`): Ends in `.html`.
        threshold (`float`, pair or mapping, *optional*, defaults to `5.0`): Where the sliders start, in steps of 0.1.
        ties (`str`, *optional*, defaults to `"drop"`): See [`~ee_trl.axes.quadrants`]; the page can change it.
        keep (`str` or `Iterable[str]`, *optional*, defaults to `"sensibility"`): The quadrants ticked at the start.
        limit (`int`, *optional*, defaults to `50000`): The most dialogues whose text the page holds.
        seed (`int`, *optional*, defaults to `0`): Seed of the draw, where there are more.
        overwrite (`bool`, *optional*, defaults to `False`): Whether the file may replace another.
        source, split, config (`str`, *optional*):
            The name of the data for the `ee-trl select` command that the page shows; a path is its own source.

    Returns:
        `Path` of the page.

    Raises:
        [`MissingExtraError`]: plotly is not installed.
        [`ScoresError`]: There are no scores.
        [`SelectionError`]: An option is not valid.
    """
    path = check_output(output, overwrite=overwrite, endings=ENDINGS)
    library = plotting_library()
    if isinstance(scored, (str, os.PathLike)):
        source = source or os.fspath(scored)
    dataset = opened(scored)
    if hasattr(dataset, "keys"):
        raise FormatError(f"there are several splits: {', '.join(dataset)}; explore one of them")
    named: dict[str, Any] = {"source": source, "split": split, "config": config}
    data = explorer_data(dataset, threshold, ties, keep=keep, limit=limit, seed=seed, **named)
    write_text(path, explorer_page(data, library))
    return path


def plotting_library() -> str:
    """The source of plotly.js; raises [`MissingExtraError`] where plotly is not installed."""
    return require("plotly.offline", extra="explorer", purpose="the explorer").get_plotlyjs()


def explorer_page(data: dict[str, Any], library: str) -> str:
    """
    The page with its data; its script unpacks the library. No text of the data is markup: it stands in a block of JSON
    without `<`, and the script sets it as text. Even if that failed, the page's policy would let the browser run no
    other script and load nothing.
    """
    assets = files("ee_trl").joinpath("assets/explorer")
    page, style, script = (
        assets.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", "style.css", "explorer.js")
    )
    allowed = " ".join(f"'{script_hash(source)}'" for source in (library, script))
    parts = {
        "policy": f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:",
        "style": style,
        "library": b64encode(compress(library.encode(), 9)).decode(),  # a third of its size
        "script": script,
        "data": inert_json(data),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], page)


def inert_json(data: Any) -> str:
    """JSON for a block of a page: it can neither end the block nor open a comment in it."""
    text = json_text(data, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def script_hash(script: str) -> str:
    """The hash by which a page's content security policy allows a script."""
    return f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}"


def score_bins(values: ArrayLike, name: str = "given") -> np.ndarray:
    """The bin of each score, in [0, 200], or -1 for NaN; it compares with bin 2k as the score compares with k / 10."""
    scores = scores_array(values, name)
    grid = np.arange(STEPS * int(MAX_SCORE) + 1) / STEPS  # the numbers that the command line reads from "0.1" ... "10"
    below, up_to = np.searchsorted(grid, scores, "left"), np.searchsorted(grid, scores, "right")
    return np.where(np.isnan(scores), -1, below + up_to - 1).astype(np.int16)


def on_grid(threshold: Threshold) -> tuple[int, int]:
    """The sliders' positions for T, `(sensibility, rationality)`."""
    pair = thresholds(threshold)
    places = tuple(round(t * STEPS) for t in pair)
    for t, place in zip(pair, places, strict=True):
        if place / STEPS != t:
            raise SelectionError(
                f"threshold {t:g} is between two positions of the explorer's sliders, which move by {1 / STEPS:g}; "
                f"start at {place / STEPS:g}, for instance"
            )
    return places[0], places[1]


def explorer_data(
    scored: Dataset | IterableDataset,
    threshold: Threshold,
    ties: str,
    *,
    keep: Any = SENSIBILITY,
    source: str | None = None,
    split: str | None = None,
    config: str | None = None,
    limit: int = DEFAULT_LIMIT,
    seed: int = 0,
) -> dict[str, Any]:
    """All that the page shows, as plain types."""
    check_choice("ties", ties, TIES, SelectionError)
    check_count("limit", limit, 0, SelectionError)
    start = {"threshold": list(on_grid(threshold)), "ties": ties, "keep": list(keep_set(keep))}
    scores = read_scores(scored, emotion=True)
    s, r = score_bins(scores.sensibility, SENSIBILITY), score_bins(scores.rationality, RATIONALITY)
    names, emotions = _emotions(scores)
    why = scores.statuses
    if scores.flags is not None:  # selection drops these, so they are in no quadrant
        flagged = ~scores.flags.is_("") & (s >= 0)
        codes = np.where(flagged, len(why.names) + scores.flags.codes.astype(np.int32), why.codes)
        why = Coded(codes, (*why.names, *(f"flag_{name}" for name in scores.flags.names)))
        s[flagged] = r[flagged] = -1
    chosen = _drawn(s, r, limit, seed)
    texts = _texts(scored, chosen, len(s))
    fit = _within(texts, MOST_TEXT, seed)
    chosen, texts = chosen[fit], [texts[i] for i in fit.tolist()]
    meanings = REASONS | {f"flag_{name}": "the reply has this flag, so selection drops it" for name in FLAGS}
    return {
        "source": source,
        "command": _command(source, split, config),
        "start": start,
        "rows": len(s),
        "scored": int((s >= 0).sum()),
        "scorers": list(scores.scorers),
        "unscored": [
            {"name": name, "meaning": meanings.get(name, ""), "count": n}
            for name, n in why.counts().items()
            if name != SCORED
        ],
        "rubric": rubric_of_file(source),
        "emotions": names,
        "whole": bool(np.all(s[s >= 0] % (2 * STEPS) == 0) and np.all(r[r >= 0] % (2 * STEPS) == 0)),
        "histogram": _histogram(s, r, emotions),
        "dialogues": {
            "row": chosen.tolist(),
            "s": s[chosen].tolist(),
            "r": r[chosen].tolist(),
            "sensibility": _numbers(scores.sensibility[chosen]),
            "rationality": _numbers(scores.rationality[chosen]),
            "emotion": emotions[chosen].tolist(),
            "reason": ["" if name == SCORED else name for name in Coded(why.codes[chosen], why.names).to_array()],
            "roles": [roles for roles, _ in texts],
            "turns": [turns for _, turns in texts],
        },
    }


def _command(source: str | None, split: str | None, config: str | None) -> str | None:
    """The beginning of the command that selects from the data, for a shell; `None` where the data has no name."""
    if source is None:
        return None
    named = f"./{source}" if source.startswith("-") else source
    options = [f"--{name}={value}" for name, value in (("split", split), ("config", config)) if value]
    return shlex.join(["ee-trl", "select", named, *options])


def _emotions(scores: Scores) -> tuple[list[str] | None, np.ndarray]:
    """The emotions by falling count, the rarest ones beyond the limit as one, and the code of each row."""
    column = scores.emotions
    if column is None:
        return None, np.zeros(len(scores.sensibility), np.int64)
    order = sorted(column.counts().items(), key=lambda item: (-item[1], item[0]))
    places = {name: min(place, MOST_EMOTIONS) for place, (name, _) in enumerate(order)}
    codes = np.array([places.get(name, 0) for name in column.names], np.int64)
    labels = [name or "(none)" for name, _ in order[:MOST_EMOTIONS]]
    if len(order) > len(labels):
        labels.append(f"(the {len(order) - len(labels):,} rarest)")
    return labels, codes[column.codes] if len(codes) else np.zeros(0, np.int64)


def _histogram(s: np.ndarray, r: np.ndarray, emotions: np.ndarray) -> dict[str, list[int]]:
    """How many samples there are of each pair of bins, -1 for the unscored, and emotion."""
    width = BINS + 1
    found, count = np.unique((emotions * width + s + 1) * width + r + 1, return_counts=True)
    pairs = found // width
    return {
        "s": (pairs % width - 1).tolist(),
        "r": (found % width - 1).tolist(),
        "emotion": (pairs // width).tolist(),
        "count": count.tolist(),
    }


def _numbers(values: np.ndarray) -> list[float | None]:
    return [None if value != value else _short(value) for value in values.tolist()]


def _short(value: float) -> float:
    """Six digits, unless rounding would make the score equal to a threshold."""
    short = round(value, 6)
    return value if short != value and round(short, 1) == short else short


def _drawn(s: np.ndarray, r: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """The rows whose text is shown, ascending: all, or some of each half point of the plane and others at random."""
    if len(s) <= limit:
        return np.arange(len(s))
    order = np.random.default_rng(seed).permutation(len(s))
    cells = ((s // STEPS) * BINS + r // STEPS)[order]
    by_cell = np.argsort(cells, kind="stable")
    ranked = cells[by_cell]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    rank = np.empty(len(s), np.int64)
    rank[by_cell] = np.arange(len(s)) - np.repeat(starts, np.diff(np.r_[starts, len(s)]))
    first = np.argsort(rank >= EACH_CELL, kind="stable")
    return np.sort(order[first[:limit]])


def _texts(scored: Dataset | IterableDataset, chosen: np.ndarray, rows: int) -> list[tuple[str, list[str]]]:
    """For each chosen row a letter per turn (s: speaker, l: listener, .: left out, ?: no dialogue) and the texts."""
    kept = np.zeros(rows, bool)
    kept[chosen] = True
    read = only_columns(scored, sample_columns(recognise(list(features_of(scored))), features_of(scored)))
    batches = batches_of(chosen_rows(tables_of(read, 10 * BATCH_ROWS), kept), features_of(read), "last")
    return [_text(sample, batch) for batch in batches for sample in batch.samples]


def _text(sample: Sample, batch: Batch) -> tuple[str, list[str]]:
    if sample.dialogue is None:
        return "?", [_cut(json_text(batch.rows[sample.row]))]
    turns = [_cut(turn) for turn in (*sample.dialogue.context, sample.dialogue.response)]
    roles = "".join("s" if role == "user" else "l" for role in (*sample.dialogue.roles, "assistant"))
    if len(turns) <= MOST_TURNS:
        return roles, turns
    return "." + roles[-MOST_TURNS:], [f"({len(turns) - MOST_TURNS:,} turns)", *turns[-MOST_TURNS:]]


def _cut(text: str) -> str:
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]}… ({len(text) - MOST_CHARACTERS:,} more characters)"


def _within(texts: Sequence[tuple[str, list[str]]], most: int, seed: int) -> np.ndarray:
    """Positions of as many texts as fit, at random, ascending."""
    sizes = np.array([sum(map(len, turns)) for _, turns in texts], np.int64)
    if sizes.sum() <= most:
        return np.arange(len(texts))
    order = np.random.default_rng(seed).permutation(len(texts))
    return np.sort(order[np.cumsum(sizes[order]) <= most])
