"""Opens the data of runs, names them by content, scores, selects, and holds out."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset

from ..axes import AXES, QUADRANTS, RATIONALITY, SENSIBILITY, TIE, quadrants
from ..data.chat import fitted, template_options
from ..data.dialogue import Dialogue, conversations
from ..data.reading import open_dataset
from ..data.sample import load_sample
from ..data.samples import SIDES, Scores, iter_samples
from ..errors import EmpathyError, FormatError, SelectionError, unknown
from ..files import blocks_of, digest, json_digest
from ..reports.plane import plot_plane
from ..scoring.judged import conversation_numbers, held_out_of
from ..selection import Selection
from ..selector import EmpathyDataSelector
from .arguments import DataArguments, PipelineArguments


logger = logging.getLogger(__name__)

EMBEDDED = "embedded sample"
CHAT_OPTIONS = "chat_template_kwargs"  # the column in which TRL looks for a row's options of the chat template
EVERYTHING = ",".join((*QUADRANTS, TIE))


def open_split(args: DataArguments, name: str) -> Dataset:
    """A split of the data set that the arguments name; of the embedded sample if they name none."""
    if args.dataset is None:
        return load_sample(name)  # type: ignore[arg-type]
    dataset: Any = open_dataset(args.dataset, config=args.dataset_config)
    if not hasattr(dataset, "keys"):
        if name != "train":
            raise FormatError(f"{args.dataset!r} is one file and has no split {name!r}")
        return dataset
    if name not in dataset:
        raise FormatError(f"{args.dataset!r}: {unknown('split', name, dataset)}")
    return dataset[name]


def open_parts(args: PipelineArguments) -> dict[str, Dataset]:
    """What to train on, and what to hold out: another file, another split, or a share of the conversations."""
    train = open_split(args, args.dataset_train_split)
    if args.empathy_dataset_test:
        test: Any = open_dataset(args.empathy_dataset_test)
        if hasattr(test, "keys"):
            test = test["test" if "test" in test else "train"]
        return {"train": train, "test": test}
    if args.draws_holdout:
        return apart(train, args.empathy_holdout, args.empathy_seed)
    return {"train": train, "test": open_split(args, args.dataset_test_split or "test")}


def apart(dataset: Dataset, share: float, seed: int) -> dict[str, Dataset]:
    """
    A data set as `"train"` and, for about `share` of the rows, `"test"`; no conversation is on both sides.

    Rows that begin with the same utterance are one conversation, and so are utterance rows with the same `conv_id`.
    """
    numbers = _conversations(dataset)
    out = held_out_of(numbers, share, seed)
    if not out.any() or out.all():
        raise EmpathyError(
            f"empathy_holdout {share} of {len(set(numbers.tolist()))} conversations leaves none on one side; give "
            "another share, or name the held-out dialogues: empathy_dataset_test or dataset_test_split"
        )
    return {"train": dataset.select(np.flatnonzero(~out)), "test": dataset.select(np.flatnonzero(out))}


def _conversations(dataset: Dataset) -> np.ndarray:
    """The number of each row's conversation; a row without a dialogue has a number of its own."""
    span_of = np.zeros(len(dataset), np.intp)  # rows with the same conv_id, or one row
    spans = 0
    found: dict[int, Dialogue] = {}
    for batch in iter_samples(dataset):
        for span in conversations(batch.rows):
            span_of[batch.numbers[span.start : span.stop]] = spans
            spans += 1
        for sample in batch.samples:
            if sample.dialogue is not None:
                found.setdefault(int(span_of[batch.numbers[sample.row]]), sample.dialogue)
    numbers = np.arange(spans)
    numbers[list(found)] = spans + conversation_numbers(list(found.values()))
    return np.unique(numbers[span_of], return_inverse=True)[1]


def content_of(dataset: str | None) -> str:
    """Names the content of a data set: a file's hash, one over all files of a folder or a pattern, or a hub name."""
    if dataset is None:
        return EMBEDDED
    path = Path(dataset).expanduser()
    if path.is_file():
        return f"sha256:{digest(blocks_of(path), 64)}"
    if path.is_dir():
        found = {str(file.relative_to(path)): file for file in path.rglob("*")}
        named = {name: file for name, file in found.items() if not _beside_data(Path(name))}
    elif "*" in dataset:
        named = {name: Path(name) for name in glob.glob(str(path), recursive=True)}
    else:
        return dataset
    parts = [(name, digest(blocks_of(file), 64)) for name, file in sorted(named.items()) if file.is_file()]
    return f"sha256:{json_digest(parts, 64)}"


def _beside_data(path: Path) -> bool:
    """Whether a file is hidden, or a cache file that `datasets` keeps in a folder of `save_to_disk`."""
    cached = path.name.startswith("cache-") and path.suffix == ".arrow"
    return cached or any(part.startswith(".") for part in path.parts)


def has_scores(dataset: Dataset) -> bool:
    """Whether a data set has the columns of both scores."""
    return set(AXES) <= set(dataset.column_names)


def score_together(selector: EmpathyDataSelector, state: PartialState) -> bool:
    """Whether the processes of a launch share the scoring: on one machine, through a score store."""
    one_machine = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) == state.num_processes
    return state.num_processes > 1 and one_machine and selector.store is not None


def with_scores(
    dataset: Dataset,
    selector: EmpathyDataSelector,
    state: PartialState,
    max_unscored: float,
    rescue: Path | None = None,
) -> Dataset:
    """
    The data set with its own scores, or else with the selector's.

    Under [`score_together`] all processes call this, else only the main one. If a greater share than `max_unscored` of
    the samples has no score, the scored samples are written to `rescue` and [`CoverageError`] is raised.
    """
    if has_scores(dataset):
        logger.warning("the data set has scores already; they are used as they are")
        return dataset
    scored = selector.score(dataset, shared=score_together(selector, state))
    coverage = selector.coverage
    assert coverage is not None
    if state.is_main_process:
        print(coverage)
        if rescue is not None and coverage.unscored_share > max_unscored:
            scored.to_parquet(rescue)
    coverage.check(max_unscored, str(rescue or ""))
    return scored


def choose(scored: Dataset, selector: EmpathyDataSelector, rule: Mapping[str, Any]) -> Selection:
    """What a rule selects; raises [`SelectionError`] if it selects nothing."""
    chosen = selector.choose(scored, **rule)
    if not len(chosen):
        raise SelectionError(
            f"nothing was selected by {chosen.settings}: {chosen.counts()}\n{selector.summary(scored)}"
        )
    return chosen


def draw_plane(scores: Scores, selector: EmpathyDataSelector, path: Path) -> None:
    """Draws the score plane, if the extra for pictures is installed."""
    try:
        plot_plane(scores.sensibility, scores.rationality, selector.threshold, path)
    except ImportError as error:
        logger.warning("the picture is left out: %s", error)


def held_out(scored: Dataset, selector: EmpathyDataSelector, most: int, seed: int) -> tuple[Dataset, list[str]]:
    """At most `most` of the samples with scores, evenly spaced, in a mixed order, and the quadrant of each."""
    rows = selector.select(scored, keep=EVERYTHING)
    if len(rows) > most:
        rows = rows.select(np.linspace(0, len(rows) - 1, most).astype(int).tolist())
    rows = rows.shuffle(seed=seed)
    scores = [rows[axis] for axis in (SENSIBILITY, RATIONALITY)]
    names = quadrants(scores[0], scores[1], threshold=selector.threshold, ties=selector.ties)
    return rows.select_columns(["prompt", "completion"]), [str(name) for name in names]


def in_template(dataset: Dataset, tokenizer: Any, name: str, join: bool = False) -> Dataset:
    """
    The rows as the tokenizer's chat template takes them, for TRL, which renders prompt and completion by itself.

    Rows that the template takes stay as they are, unless `join` asks for joined turns ([`~ee_trl.data.chat.fitted`]).
    Raises [`FormatError`] with the row of `name` that it refuses.
    """
    if not getattr(tokenizer, "chat_template", None):
        return dataset
    told = None if CHAT_OPTIONS in dataset.column_names else template_options(tokenizer)
    changes = {}
    for i, (prompt, completion) in enumerate(zip(dataset["prompt"], dataset["completion"], strict=True)):
        sides = fitted(tokenizer, prompt, completion, f"row {i} of {name}", join)
        if sides != (prompt, completion):
            changes[i] = dict(zip(SIDES, sides, strict=True))
    if changes:
        text = "%d of %d rows of %s have neighbouring turns of one side: they are joined"
        logger.warning(text, len(changes), len(dataset), name)
    if not changes and not told:
        return dataset
    added = {CHAT_OPTIONS: told} if told else {}
    return dataset.map(lambda row, i: {**changes.get(i, {}), **added}, with_indices=True, desc="Fitting the template")


def read_rows(path: Path) -> Dataset:
    """A parquet file of rows."""
    return Dataset.from_parquet(str(path))
