"""Scored replies in the formats of other tools: preference pairs for DPO, and records for Argilla."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from ..axes import AXES, FLAG, SENSIBILITY
from ..errors import check_choice
from .dialogue import Dialogue
from .samples import check_scored, iter_samples
from .tables import BATCH_ROWS, columns_of


if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset

AnyRows: TypeAlias = "Dataset | IterableDataset"


def preference_pairs(scored: AnyRows, axis: str = SENSIBILITY) -> Iterator[dict[str, Any]]:
    """
    One pair for each context that has replies with different scores, as `DPOTrainer` takes it.

    Args:
        scored (`Dataset` or `IterableDataset`): What `selector.score` returned.
        axis (`str`, *optional*, defaults to `"sensibility"`): The reply with the highest score on this axis is
            `chosen`, the one with the lowest is `rejected`. A flagged reply ranks below all others.

    Yields `prompt`, `chosen` and `rejected` (messages), and the scores `chosen_<axis>` and `rejected_<axis>`.
    """
    check_choice("axis", axis, AXES)
    check_scored(columns_of(scored))
    ends: dict[tuple[Any, ...], list[tuple[float, float, Dialogue]]] = {}  # context -> its lowest and highest reply
    for row, dialogue in _scored_replies(scored):
        entry = (-1.0 if row.get(FLAG) else row[axis], row[axis], dialogue)
        low, high = ends.setdefault((dialogue.system, dialogue.roles, dialogue.context), [entry, entry])
        pair = [entry if entry[0] < low[0] else low, entry if entry[0] > high[0] else high]
        ends[dialogue.system, dialogue.roles, dialogue.context] = pair
    for low, high in ends.values():
        if low[0] < high[0]:
            scores = {f"chosen_{axis}": high[1], f"rejected_{axis}": low[1]}
            replies = {"chosen": high[2].completion, "rejected": low[2].completion}
            yield {"prompt": high[2].prompt, **replies, **scores}


def _scored_replies(scored: AnyRows) -> Iterator[tuple[dict[str, Any], Dialogue]]:
    """The rows with both scores and a dialogue."""
    for batch in iter_samples(scored, "last", columns=(*AXES, FLAG, "quadrant", "emotion", "scorer")):
        for sample in batch.samples:
            row = batch.rows[sample.row]
            if sample.dialogue is not None and all(row[axis] is not None and row[axis] == row[axis] for axis in AXES):
                yield row, sample.dialogue


def preference_tables(scored: AnyRows, axis: str = SENSIBILITY) -> tuple[Features, Iterator[pa.Table]]:
    """[`preference_pairs`] as features and tables."""
    from datasets import Features, List, Value

    messages = List({"role": Value("string"), "content": Value("string")})
    sides = dict.fromkeys(("prompt", "chosen", "rejected"), messages)
    features = Features({**sides, **dict.fromkeys((f"chosen_{axis}", f"rejected_{axis}"), Value("float64"))})

    def tables() -> Iterator[pa.Table]:
        rows = list(preference_pairs(scored, axis))
        for start in range(0, len(rows), BATCH_ROWS):
            yield pa.Table.from_pylist(rows[start : start + BATCH_ROWS], schema=features.arrow_schema)

    return features, tables()


def argilla_records(scored: AnyRows) -> list[dict[str, Any]]:
    """
    Scored or selected replies as records that `rg.Record.from_dict` of Argilla 2 reads.

    The fields are `context` (a chat field) and `response` (a text field). The scores, rounded, are suggestions for
    rating questions of the same names, from 0 to 10; the exact scores, the quadrant and the emotion are metadata.
    """
    check_scored(columns_of(scored))
    records = []
    for number, (row, dialogue) in enumerate(_scored_replies(scored)):
        agent = row.get("scorer") or "given"
        names = (*AXES, "quadrant", "emotion", FLAG)
        records.append(
            {
                "id": str(number),
                "fields": {"context": dialogue.prompt, "response": dialogue.response},
                "suggestions": {axis: {"value": round(row[axis]), "agent": agent} for axis in AXES},
                "metadata": {name: row[name] for name in names if row.get(name) is not None},
            }
        )
    return records
