"""Judges that choose one of a few short answers, on the engines that score: a model's logits, or a server.

Nothing is generated where a model is at hand: at the answer slot of each question one forward pass gives the
probability of every option. Behind a server it is one chat completion a question, read from log probabilities where
the server gives them and strictly from the text where not.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ...errors import ScorerError, unknown
from .prompt import neutralised, turn_line


LAYOUT = "choice-1"
"""Changes when what a judge is asked with does."""

SLOT_HEADER = "Answer (one of the options ONLY):"


@dataclass(frozen=True)
class Question:
    """
    What a judge is asked about a dialogue.

    Args:
        instruction (`str`): What is asked, and the options; trusted text.
        turns (`tuple[tuple[str, str], ...]`): The dialogue, oldest first: role (`"user"`, `"assistant"`) and text. The
            oldest are left out where all are too long for the judge.
        candidates (`tuple[tuple[str, str], ...]`): Label and text of what is judged; never left out.
        slot (`str`): The beginning of the answer, e.g. `"- Empathy:"`.
    """

    instruction: str
    turns: tuple[tuple[str, str], ...]
    candidates: tuple[tuple[str, str], ...]
    slot: str


@runtime_checkable
class Chooser(Protocol):
    """Anything that has a `fingerprint` and can `choose`; no base class is needed."""

    @property
    def fingerprint(self) -> str:
        """Names everything that determines the probabilities."""
        ...

    def choose(self, questions: Sequence[Question], options: Sequence[str]) -> np.ndarray:
        """Probabilities of shape `(n, options)`, each row of sum 1, or NaN where a question was not answered."""
        ...


def load_chooser(spec: Any, **options: Any) -> Chooser:
    """
    Loads a judge that chooses.

    Args:
        spec (`str`, `os.PathLike` or [`Chooser`]): A folder or hub id of a causal language model, `"server"`, or an
            object with `fingerprint` and `choose`.
        options: Of [`~ee_trl.scoring.judge.choice_model.CausalLMChooser`] or
            [`~ee_trl.scoring.judge.choice_server.ServerChooser`].

    Raises:
        [`ScorerError`]: There is no such judge, or it does not know an option.
    """
    if isinstance(spec, (str, os.PathLike)):
        from .choice_model import CausalLMChooser
        from .choice_server import ServerChooser

        cls: Any = ServerChooser if spec == "server" else CausalLMChooser
        known = [name for name in inspect.signature(cls).parameters if cls is ServerChooser or name != "model"]
        for name in options:
            if name not in known:
                raise ScorerError(unknown("option of a judge", name, known))
        if cls is ServerChooser:
            if "model" not in options:
                raise ScorerError("the judge 'server' needs the name of the model on it: model=...")
            return ServerChooser(**options)
        return CausalLMChooser(os.fspath(spec), **options)
    if not isinstance(spec, Chooser) or not callable(spec.choose):
        raise ScorerError(
            f"{spec!r} is not a judge: give a folder or hub id of a language model, 'server', or an object with "
            "`fingerprint` and `choose(questions, options)`"
        )
    if options:
        raise ScorerError(f"options {sorted(options)} do not go with a judge object; give them where it is made")
    return spec


def checked_choices(judge: Chooser, questions: Sequence[Question], options: Sequence[str]) -> np.ndarray:
    """What a judge chooses, held to its contract; raises [`ScorerError`] where it breaks it."""
    if not questions:
        return np.zeros((0, len(options)))
    found = np.asarray(judge.choose(questions, options), float)
    if found.shape != (len(questions), len(options)):
        raise ScorerError(
            f"judge {judge.fingerprint!r} gave an array of shape {found.shape} for {len(questions)} questions of "
            f"{len(options)} options; expected ({len(questions)}, {len(options)})"
        )
    missing = np.isnan(found).any(axis=1)
    if not np.allclose(found[~missing].sum(axis=1), 1, atol=1e-3) or (found[~missing] < -1e-9).any():
        raise ScorerError(f"judge {judge.fingerprint!r} gave rows that are no probabilities of sum 1")
    found[missing] = np.nan
    return found


def candidate_line(label: str, text: str) -> str:
    """How a judge is shown what it judges: on one line, whatever the text holds."""
    return f"{label}: {neutralised(text)}\n"


def question_text(question: Question, options: Sequence[str]) -> str:
    """The question as one text, for a judge behind a server."""
    lines = [turn_line(role, text) for role, text in question.turns]
    lines += [candidate_line(label, text) for label, text in question.candidates]
    form = f"Answer with one line: `{question.slot} ` and one of {', '.join(options)}."
    return f"{question.instruction.strip()}\n\n{form}\n\nDialogue:\n{''.join(lines)}".rstrip("\n")
