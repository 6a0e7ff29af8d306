"""Judges that choose one of a few short answers, with the same machinery as the scorers: a local model, or a server.

With a local model nothing is generated: one forward pass gives the probability of every option at the answer slot of
each question. A server writes one chat completion a question. Its log probabilities are read where it gives them,
otherwise its text, strictly.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ...errors import ScorerError, unknown
from ...files import digest
from .answers import Completion
from .endpoint import DEFAULT_KEY_ENV, Endpoint, each_answered
from .prompt import SafeTokenizer, labelled, newest, turn_line
from .server import TOP, Chat, body_of


LAYOUT = "choice-1"  # changes when the text around a question does
SLOT_HEADER = "Answer (one of the options ONLY):"
_MAX_TOKENS = 24


@dataclass(frozen=True)
class Question:
    """What a judge is asked about a dialogue. Where it cannot read all turns, the oldest are left out."""

    instruction: str  # the question and its options; trusted text
    turns: tuple[tuple[str, str], ...]  # role ("user", "assistant") and text, oldest first
    candidates: tuple[tuple[str, str], ...]  # label and text of what is judged; never left out
    slot: str  # the beginning of the answer, e.g. "- Empathy:"

    def lines(self) -> tuple[list[str], list[str]]:
        """The turns, and the candidates, each on a line of its own."""
        turns = [turn_line(role, text) for role, text in self.turns]
        return turns, [labelled(label, text) for label, text in self.candidates]


@runtime_checkable
class Chooser(Protocol):
    """Anything that has a `fingerprint` and can `choose`; no base class is needed."""

    @property
    def fingerprint(self) -> str:
        """Names everything that determines the probabilities."""
        ...

    def choose(self, questions: Sequence[Question], options: Sequence[str]) -> np.ndarray:
        """Probabilities of shape `(n, options)`: each row sums to 1, or is NaN where a question was not answered."""
        ...


def load_chooser(spec: Any, **options: Any) -> Chooser:
    """Loads a judge that chooses."""
    if not isinstance(spec, (str, os.PathLike)):
        if not isinstance(spec, Chooser) or not callable(spec.choose):
            raise ScorerError(
                f"{spec!r} is not a judge: give a folder or hub id of a language model, 'server', or an object with "
                "`fingerprint` and `choose(questions, options)`"
            )
        if options:
            raise ScorerError(f"options {sorted(options)} do not go with a judge object; give them where it is made")
        return spec
    cls: Any = ServerChooser if spec == "server" else CausalLMChooser
    known = [name for name in inspect.signature(cls).parameters if cls is ServerChooser or name != "model"]
    for name in options:
        if name not in known:
            raise ScorerError(unknown("option of a judge", name, known))
    if cls is CausalLMChooser:
        return CausalLMChooser(spec, **options)
    if "model" not in options:
        raise ScorerError("the judge 'server' needs the name of the model on it: model=...")
    return ServerChooser(**options)


def checked_choices(judge: Chooser, questions: Sequence[Question], options: Sequence[str]) -> np.ndarray:
    """What a judge chooses, see [`Chooser.choose`]; raises [`ScorerError`] where it breaks that contract."""
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


class CausalLMChooser:
    """
    A causal language model, read from its logits.

    For the arguments see [`~ee_trl.CausalLMScorer`]; on a CPU `token_budget` is 2,048 by default.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        quantization: str = "none",
        dtype: str = "auto",
        device_map: Any = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        token_budget: int | None = None,
    ) -> None:
        from .loading import load_judge  # these two import torch, which the other choosers do not need
        from .tree import PlainTexts

        judge = load_judge(
            model, tokenizer, quantization, dtype, device_map, revision, trust_remote_code, token_budget=token_budget
        )
        self.model, self.tokenizer = judge.model, judge.tokenizer
        self.tokens = SafeTokenizer(self.tokenizer)
        self.token_budget = token_budget or judge.token_budget(on_a_cpu=2_048)
        self.max_length = judge.max_length()
        self.fingerprint = f"{LAYOUT}/{judge.content}/{judge.precision}"
        example = self.tokens.trusted("How kind is the last reply? Answer with one word.")
        self._texts = PlainTexts(self.model, judge.exact, example)

    def choose(self, questions: Sequence[Question], options: Sequence[str]) -> np.ndarray:
        """See [`Chooser`]; the probabilities are over the options alone. NaN where a question is too long."""
        chances = np.full((len(questions), len(options)), np.nan)
        texts = {i: ids for i, question in enumerate(questions) if (ids := self.ids_of(question, options))}
        order = sorted(texts, key=lambda i: -len(texts[i][0]))
        while order:
            size = max(1, self.token_budget // len(texts[order[0]][0]))
            batch, order = order[:size], order[size:]
            logits = self._texts.logits([texts[i][0] for i in batch], keep=1)[:, -1]
            for row, i in zip(logits, batch, strict=True):
                chances[i] = row[list(texts[i][1])].softmax(dim=-1).double().cpu().numpy()
        return chances

    def ids_of(self, question: Question, options: Sequence[str]) -> tuple[list[int], tuple[int, ...]] | None:
        """The ids up to the answer slot, and the id of each option; `None` where the text is too long."""
        before, after = self.tokens.around_dialogue(question.instruction)
        slot, firsts = self._slot(question.slot, tuple(options))
        head, tail = self.tokens.trusted(before), [*self.tokens.trusted(f"{after}{SLOT_HEADER}\n"), *slot]
        turns, judged = ([self.tokens.untrusted(line) for line in lines] for lines in question.lines())
        room = self.max_length - len(head) - len(tail) - sum(map(len, judged))
        kept = newest(turns, room, least=1)
        return None if kept is None else ([*head, *(i for line in (*kept, *judged) for i in line), *tail], firsts)

    def _slot(self, slot: str, options: tuple[str, ...]) -> tuple[list[int], tuple[int, ...]]:
        """The ids of the slot, and the one id of each option after it."""
        trusted = self.tokens.trusted
        joined = [trusted(f"{slot} {option}") for option in options]
        # where a space and an option are one token for some options only, the space goes to the slot
        apart = [[*trusted(f"{slot} "), *trusted(option)] for option in options]
        for answers in (joined, apart):
            heads, lasts = {tuple(ids[:-1]) for ids in answers}, tuple(ids[-1] for ids in answers)
            if len(heads) == 1 and len(set(lasts)) == len(options):
                return list(heads.pop()), lasts
        raise ScorerError(
            f"this tokenizer does not write each of the options {', '.join(options)} as one token after {slot!r}; "
            "give another judge"
        )


class ServerChooser:
    """
    A model behind an OpenAI-compatible server, asked once a question; every option must be one letter or digit.

    For the arguments see [`~ee_trl.ServerScorer`]; `max_tokens` is 24 by default.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key_env: str | None = DEFAULT_KEY_ENV,
        concurrency: int = 8,
        timeout: float = 60.0,
        max_retries: int = 5,
        max_tokens: int = _MAX_TOKENS,
        extra_body: Any = None,
    ) -> None:
        self.concurrency = concurrency
        self.endpoint = Endpoint(base_url, api_key_env, timeout, max_retries)
        self.chat = Chat(self.endpoint, model, max_tokens, body_of(extra_body))
        self._top: int | None = None  # how many alternatives the server lists, once it is known

    @cached_property
    def fingerprint(self) -> str:
        """Names model, server and request."""
        parts = [LAYOUT, f"{self.chat.model}@{self.endpoint.host}"]
        if self.chat.extra_body:
            parts.append(f"body:{digest(repr(sorted(self.chat.extra_body.items())))}")
        if self.chat.max_tokens != _MAX_TOKENS:
            parts.append(f"tokens:{self.chat.max_tokens}")
        return "/".join(parts)

    def choose(self, questions: Sequence[Question], options: Sequence[str]) -> np.ndarray:
        """See [`Chooser`]; NaN where the server gave no answer in the form."""
        chances = np.full((len(questions), len(options)), np.nan)

        async def ask(client: Any, i: int) -> tuple[int, Any]:
            text = question_text(questions[i], options)
            if self._top is None:
                body, self._top, _ = await self.chat.ask_first(client, text, (*TOP, 0))
            else:
                body, _ = await self.chat.ask(client, text, self._top)
            return i, body

        todo = range(len(questions))
        for part in (todo[:1], todo[1:]):  # the first finds out what the server gives
            for answers in each_answered(self.endpoint, part, ask, self.concurrency):
                for i, body in answers:
                    chances[i] = read_choice(body, questions[i].slot, options)
        return chances


def question_text(question: Question, options: Sequence[str]) -> str:
    """The question as one text, for a server, which applies its own chat template."""
    turns, judged = question.lines()
    form = f"Answer with one line: `{question.slot} ` and one of {', '.join(options)}."
    return f"{question.instruction.strip()}\n\n{form}\n\nDialogue:\n{''.join([*turns, *judged])}".rstrip("\n")


def read_choice(body: Any, slot: str, options: Sequence[str]) -> np.ndarray:
    """The options' probabilities from a chat completion: by its alternatives, else by its text; NaN without either."""
    found = Completion.read(body)
    written = found.text.strip().removeprefix(slot).strip().rstrip(".") if found else ""
    if found is None or found.cut_off or written not in options:
        return np.full(len(options), np.nan)
    place = len(found.text[: found.text.rindex(written)].encode())
    end = 0
    for token in found.tokens:
        end += len(token.text)
        if end > place:
            listed = [sum(p for text, p in token.alternatives if text.strip() == o.encode()) for o in options]
            if sum(listed) > 0 and token.text.strip() == written.encode():
                return np.array(listed) / sum(listed)
            break
    return np.array([float(option == written) for option in options])
