"""Opens the data of runs, names them by content, scores, selects, and holds out."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset, concatenate_datasets, load_dataset

from ..axes import AXES, QUADRANTS, RATIONALITY, SENSIBILITY, TIE, quadrants
from ..data.chat import chat_ids, fitted, template_options
from ..data.dialogue import Dialogue, conversations
from ..data.mapping import mapped
from ..data.reading import open_dataset
from ..data.sample import load_sample
from ..data.samples import SIDES, Scores, iter_samples
from ..errors import EmpathyError, FormatError, SelectionError, check_choice, unknown
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
    if isinstance(args.datasets, list):
        mixed = mapped(mixture(args.datasets), args.reading_options()["mapping"])
        if args.test_split_size is None:
            if name != args.dataset_train_split:
                raise FormatError(f"a mixture has no split {name!r}; hold out a part of it: test_split_size: 0.1")
            return mixed
        return apart(mixed, args.test_split_size, 0)["train" if name == args.dataset_train_split else "test"]
    if args.dataset is None:
        return load_sample(name)  # type: ignore[arg-type]
    dataset: Any = open_dataset(args.dataset, config=args.dataset_config, **args.reading_options())
    if not hasattr(dataset, "keys"):
        if name != "train":
            raise FormatError(f"{args.dataset!r} is one file and has no split {name!r}")
        return dataset
    if name not in dataset:
        raise FormatError(f"{args.dataset!r}: {unknown('split', name, dataset)}")
    return dataset[name]


def mixture(parts: Sequence[Mapping[str, Any]]) -> Dataset:
    """TRL's mixture of data sets: one after another, or the first rows of each by their `fraction` of the whole."""
    found = [_of_mixture(**part) for part in parts]
    shares = [part.get("fraction") or 0.0 for part in parts]
    if any(shares):
        total = min(len(one) * sum(shares) / share for one, share in zip(found, shares, strict=True) if share)
        counts = [round(total * share / sum(shares)) for share in shares]
        found = [one.select(range(count)) for one, count in zip(found, counts, strict=True)]
    columns = {part["path"]: one.column_names for part, one in zip(parts, found, strict=True)}
    if len({frozenset(names) for names in columns.values()}) > 1:
        raise FormatError(
            f"the data sets of the mixture differ in their columns: {columns}; name common ones: columns"
        )
    return concatenate_datasets(found)


def _of_mixture(
    path: str,
    name: str | None = None,
    split: str = "train",
    columns: list[str] | None = None,
    fraction: float | None = None,
    **files: Any,
) -> Dataset:
    given = any(files.values())
    dataset: Any = (
        load_dataset(path, name, split=split, **files) if given else open_dataset(path, config=name, split=split)
    )
    if columns is None:
        return dataset
    for column in columns:
        check_choice(f"column of {path!r}", column, dataset.column_names, FormatError)
    return dataset.select_columns(columns)


def open_parts(args: PipelineArguments) -> dict[str, Dataset]:
    """What to train on, and what to hold out: another file, another split, or a share of the conversations."""
    train = open_split(args, args.dataset_train_split)
    if args.empathy_dataset_test:
        test: Any = open_dataset(args.empathy_dataset_test, **args.reading_options())
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
            f"a held-out share of {share} of {len(set(numbers.tolist()))} conversations leaves none on one side; "
            "give another share, or name the held-out dialogues: empathy_dataset_test or dataset_test_split"
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


def content_of(dataset: str | list[dict[str, Any]] | None) -> str:
    """Names the content of a data set: a file's hash, one over all files of a folder or a pattern, or a hub name."""
    if dataset is None:
        return EMBEDDED
    if not isinstance(dataset, str):
        return f"sha256:{json_digest([{**one, 'path': content_of(one['path'])} for one in dataset], 64)}"
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


def untrained(rows: Dataset, trainer: Any, tokenizer: Any) -> int:
    """
    How many rows a trainer does not train on, because `max_length` leaves nothing of their replies.

    TRL drops these rows, unless it packs rows or trains on prompts too; then the tokens before the reply tell.
    """
    args = trainer.args
    if not args.packing and trainer.completion_only_loss:
        return len(rows) - len(trainer.train_dataset)
    cuts = args.packing_strategy == "bfd" if args.packing else args.truncation_mode == "keep_start"
    if args.max_length is None or not cuts:
        return 0
    return sum(len(chat_ids(tokenizer, prompt, prompt=True)) >= args.max_length for prompt in rows["prompt"])


def read_rows(path: Path) -> Dataset:
    """A parquet file of rows."""
    return Dataset.from_parquet(str(path))
