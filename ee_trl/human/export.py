"""From dialogues and files of replies to the sheets of a study."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.dialogue import Turns
from ..errors import EmpathyError
from .files import write_sheets
from .sheets import AB, make_sheets


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
        dataset (`str`, `os.PathLike` or `Dataset`): The dialogues that are replied to.
        predictions (`Mapping` or `Sequence`): Files of replies, as in [`~ee_trl.evaluation.evaluate_models`].
        folder (`Path`): Where to.
        references (`bool`, *optional*, defaults to `False`): Whether the reference replies are a candidate too.
        kind, aspects, raters: See [`~ee_trl.human.sheets.make_sheets`].
        n (`int`, *optional*, defaults to `50`): How many dialogues are drawn. For A/B, of those to which the two
            candidates do not reply the same.
        limit (`int`, *optional*): So many dialogues alone, evenly spaced, as an evaluation with this limit takes them.
        turns, split, config: Of the data set.
        seed (`int`, *optional*, defaults to `0`): Of the draw, of sides and orders.

    Returns:
        `list[Path]`: the sheets' files.

    Raises:
        [`EmpathyError`]: There are fewer dialogues than `n`, a file is called as the references are, or the candidates
            are not as the kind needs them.
    """
    from ..evaluation.candidates import candidates_of, read_replies
    from ..evaluation.eval_set import read_eval_set

    eval_set = read_eval_set(dataset, split=split, config=config, limit=limit, turns=turns)
    replies = {}
    if predictions or not references:
        for candidate in candidates_of(predictions=predictions):
            if references and candidate.name == REFERENCES:
                raise EmpathyError(
                    f"a file of replies is called {REFERENCES!r}, as the reference replies are; name it otherwise: "
                    f"other={candidate.source}"
                )
            replies[candidate.name] = read_replies(candidate.source, eval_set, candidate.name).texts
    if references:
        replies[REFERENCES] = eval_set.references
    there = list(range(len(eval_set)))
    if kind == AB and len(replies) == 2:
        first, second = replies.values()
        there = [i for i in there if first[i].strip() != second[i].strip()]
    if not there:
        raise EmpathyError(
            f"there is nothing to rate: {' and '.join(replies)} reply the same to all {len(eval_set):,} dialogues"
        )
    if not 1 <= n <= len(there):
        what = "to which the candidates reply differently" if kind == AB else "in the data set"
        raise EmpathyError(f"n {n} is not valid; valid: 1 to {len(there):,}, the dialogues {what}")
    chosen = sorted(random.Random(f"dialogues {seed}").sample(there, n))
    contexts = [
        [[ROLES[role], text] for role, text in zip(d.roles, d.context, strict=True)] for d in eval_set.dialogues
    ]
    sheets, key = make_sheets(
        contexts, replies, kind=kind, aspects=aspects, raters=raters, dialogues=chosen, seed=seed
    )
    return write_sheets(folder, sheets, key)
