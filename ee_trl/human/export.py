"""From dialogues and files of replies to the sheets of a study."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.dialogue import Turns
from ..errors import EmpathyError
from ..evaluation.candidates import candidates_of, read_replies
from ..evaluation.eval_set import read_eval_set
from .sheets import AB, make_sheets, write_sheets


REFERENCES = "references"
ROLES = {"user": "Speaker", "assistant": "Listener"}


def export_study(
    dataset: Any,
    predictions: Mapping[str, Any] | Sequence[str],
    folder: Path,
    *,
    references: bool = False,
    kind: str = AB,
    aspects: Sequence[str],
    n: int = 50,
    raters: int = 3,
    limit: int | None = None,
    turns: Turns = "each",
    split: str | None = None,
    config: str | None = None,
    seed: int = 0,
) -> list[Path]:
    """
    Writes the sheets and the key of a study.

    Args:
        dataset (`str`, `os.PathLike` or `Dataset`): The dialogues that the candidates reply to.
        predictions (`Mapping` or `Sequence`): Files of replies, as in [`~ee_trl.evaluation.evaluate_models`].
        folder (`Path`): The folder of the study.
        references (`bool`, *optional*, defaults to `False`): Whether the reference replies are a candidate too.
        kind, aspects, raters: See [`~ee_trl.human.sheets.make_sheets`].
        n (`int`, *optional*, defaults to `50`): How many dialogues are drawn. For A/B they are drawn from those to
            which the two candidates reply differently.
        limit, turns, split, config: See [`~ee_trl.evaluation.evaluate_models`].
        seed (`int`, *optional*, defaults to `0`): Seed of dialogues, sides and orders.

    Returns:
        `list[Path]`: the sheets' files.

    Raises:
        [`EmpathyError`]: There are fewer dialogues than `n`, a file has the name of the references, or the candidates
            do not suit the kind.
    """
    eval_set = read_eval_set(dataset, split=split, config=config, limit=limit, turns=turns)
    replies = {}
    if predictions or not references:
        for candidate in candidates_of(predictions=predictions):
            if references and candidate.name == REFERENCES:
                raise EmpathyError(
                    f"a file of replies is called {REFERENCES!r}, as the reference replies are; give it another name: "
                    f"other={candidate.source}"
                )
            replies[candidate.name] = read_replies(candidate.source, eval_set, candidate.name).texts
    if references:
        replies[REFERENCES] = eval_set.references
    chosen = _drawn(kind, replies, len(eval_set), n, seed)
    contexts = [
        [[ROLES[role], text] for role, text in zip(d.roles, d.context, strict=True)] for d in eval_set.dialogues
    ]
    options: dict[str, Any] = {"kind": kind, "aspects": aspects, "raters": raters, "seed": seed}
    return write_sheets(folder, *make_sheets(contexts, replies, dialogues=chosen, **options))


def _drawn(kind: str, replies: Mapping[str, Sequence[str]], dialogues: int, n: int, seed: int) -> list[int]:
    """The numbers of `n` dialogues, ascending."""
    there = list(range(dialogues))
    if kind == AB and len(replies) == 2:
        first, second = replies.values()
        there = [i for i in there if first[i].strip() != second[i].strip()]
    if not there:
        raise EmpathyError(
            f"there is nothing to rate: {' and '.join(replies)} reply the same to all {dialogues:,} dialogues"
        )
    if not 1 <= n <= len(there):
        what = "to which the candidates reply differently" if kind == AB else "in the data set"
        raise EmpathyError(f"n {n} is not valid; valid: 1 to {len(there):,}, the dialogues {what}")
    return sorted(random.Random(f"dialogues {seed}").sample(there, n))
