"""The data of a whole run: scored dialogues, the set of each expert, and what is held out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..axes import AXES, QUADRANTS, RATIONALITY, SENSIBILITY, TIE
from ..errors import EmpathyError, SelectionError, unknown


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from ..data.dialogue import Dialogue
    from ..selector import EmpathyDataSelector
    from .arguments import PipelineArguments

logger = logging.getLogger(__name__)

EVERYTHING = ",".join((*QUADRANTS, TIE))


def read_rows(path: Path) -> Dataset:
    """A parquet file that a stage wrote."""
    from datasets import Dataset

    return Dataset.from_parquet(str(path))


def sources(args: PipelineArguments) -> dict[str, Dataset]:
    """What to train on, and what is held out: another file, another split, or a share of the conversations."""
    from ..data.reading import open_dataset
    from ..data.sample import load_sample

    if args.dataset is None:
        return {"train": load_sample("train"), "test": load_sample("test")}
    opened: Any = open_dataset(args.dataset, config=args.dataset_config)
    splits = opened if hasattr(opened, "keys") else {args.dataset_train_split: opened}
    for name in filter(None, (args.dataset_train_split, args.dataset_test_split)):
        if name not in splits:
            raise EmpathyError(f"{args.dataset!r}: {unknown('split', name, splits)}")
    train = splits[args.dataset_train_split]
    if args.empathy_dataset_test:
        test: Any = open_dataset(args.empathy_dataset_test)
        if hasattr(test, "keys"):
            test = test["test" if "test" in test else "train"]
        return {"train": train, "test": test}
    if args.dataset_test_split:
        return {"train": train, "test": splits[args.dataset_test_split]}
    return apart(train, args.empathy_holdout, args.empathy_seed)


def apart(dataset: Dataset, share: float, seed: int) -> dict[str, Dataset]:
    """
    A data set as `"train"` and, about `share` of the rows, `"test"`; no conversation is on both sides.

    Args:
        dataset (`Dataset`): In any dialogue format. Of one conversation are rows that begin with the same utterance;
            where each row is an utterance, those of one `conv_id`.
        share (`float`): To hold out.
        seed (`int`): Of the draw.
    """
    import numpy as np

    from ..scoring.judged import held_out_of

    numbers = _conversations(dataset)
    out = held_out_of(numbers, share, seed)
    if not out.any() or out.all():
        raise EmpathyError(
            f"empathy_holdout {share} of {len(set(numbers.tolist()))} conversations leaves none on one side; give "
            "another share, or name what is held out: empathy_dataset_test or dataset_test_split"
        )
    return {"train": dataset.select(np.flatnonzero(~out)), "test": dataset.select(np.flatnonzero(out))}


def _conversations(dataset: Dataset) -> np.ndarray:
    """The number of each row's conversation; a row without a dialogue is of none but its own."""
    import numpy as np

    from ..data.dialogue import conversations
    from ..data.samples import iter_samples
    from ..scoring.judged import conversation_numbers

    span_of = np.zeros(len(dataset), np.intp)  # rows that are one conversation by their conv_id, or one row
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


def write_scored(
    folder: Path, selector: EmpathyDataSelector, args: PipelineArguments, *, shared: bool = False, write: bool = True
) -> None:
    """
    Scores what [`sources`] gives into `train.parquet` and `test.parquet`; given scores are used as they are.

    Args:
        folder (`Path`): Where to.
        selector (`EmpathyDataSelector`): With the scorer.
        args (`PipelineArguments`): The data.
        shared (`bool`, *optional*, defaults to `False`): Whether all processes call this, and share the work.
        write (`bool`, *optional*, defaults to `True`): Whether this process writes, and says what was scored.
    """
    from ..data.tables import tables_of, write_file

    for name, dataset in sources(args).items():
        if all(axis in dataset.column_names for axis in AXES):
            logger.warning("%s: the data set brings its own scores; they are used as they are", name)
        else:
            dataset = selector.score(dataset, shared=shared)
            assert selector.coverage is not None
            if write:
                print(selector.coverage)
            selector.coverage.check(args.empathy_max_unscored)
        if not write:
            continue
        write_file(tables_of(dataset), dataset.features, folder / f"{name}.parquet", metadata={"part": name})


def write_sets(
    folder: Path, scored: Path, selector: EmpathyDataSelector, rule: Mapping[str, Any], sets: Mapping[str, str]
) -> None:
    """
    Selects each set from the scored dialogues, and writes why the rest was left out.

    Args:
        folder (`Path`): Where to.
        scored (`Path`): The scored dialogues.
        selector (`EmpathyDataSelector`): With threshold and ties.
        rule (`Mapping`): The options of [`EmpathyDataSelector.select`] but `keep`.
        sets (`Mapping[str, str]`): Name -> the quadrants that it keeps.
    """
    from ..data.samples import read_scores
    from ..data.tables import write_file
    from ..files import write_json, write_text
    from ..reports.plane import plot_plane

    dataset = read_rows(scored)
    summary, scores = selector.summary(dataset), read_scores(dataset)
    counts: dict[str, dict[str, int]] = {}
    for name, keep in sets.items():
        chosen = selector.choose(dataset, **{**rule, "keep": keep})
        counts[name] = chosen.counts()
        if not len(chosen):
            raise SelectionError(f"nothing was selected for {name!r}: {counts[name]}\n{summary}")
        features, tables = selector.select_tables(dataset, chosen)
        write_file(tables, features, folder / f"{name}.parquet", metadata={"settings": chosen.settings})
    write_text(folder / "summary.txt", f"{summary}\n")
    try:
        plot_plane(scores.sensibility, scores.rationality, selector.threshold, folder / "plane.png")
    except ImportError as error:
        logger.warning("the picture is left out: %s", error)
    record = {
        "samples": len(scores.sensibility),
        "sets": {name: own["kept"] for name, own in counts.items()},
        "counts": counts,
        "threshold": list(selector.threshold),
        "scorer": list(scores.scorers),
        "summary": summary.to_dict(),
    }
    write_json(folder / "selection.json", record)


def held_out(
    path: Path, selector: EmpathyDataSelector, samples: int, seed: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """
    Held-out rows with a reply and scores, in an order that mixes them, and the quadrant of each.

    Args:
        path (`Path`): The scored rows.
        selector (`EmpathyDataSelector`): With threshold and ties.
        samples (`int`): How many at most, evenly spaced.
        seed (`int`): Of the order.
    """
    import numpy as np

    from ..axes import quadrants

    rows = selector.select(read_rows(path), keep=EVERYTHING)
    if len(rows) > samples:
        rows = rows.select(np.linspace(0, len(rows) - 1, samples).astype(int).tolist())
    rows = rows.shuffle(seed=seed)
    scores = [rows[axis] for axis in (SENSIBILITY, RATIONALITY)]
    names = quadrants(scores[0], scores[1], threshold=selector.threshold, ties=selector.ties)
    return [{side: row[side] for side in ("prompt", "completion")} for row in rows], [str(name) for name in names]
