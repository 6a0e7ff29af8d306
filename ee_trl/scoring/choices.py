"""Judges that choose one of a few short answers, on the engines that score: a model's logits, or a server.

Nothing is generated where a model is at hand: at the answer slot of each question one forward pass gives the
probability of every option. Behind a server it is one chat completion a question, read from log probabilities where
the server gives them and strictly from the text where not.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, Protocol, runtime_checkable

import numpy as np

from .._optional import require
from ..errors import ScorerError, unknown


_LAYOUT = "choice-1"  # changes when what a judge is asked with does
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
        options: Of [`CausalLMChooser`] or [`ServerChooser`].

    Raises:
        [`ScorerError`]: There is no such judge, or it does not know an option.
    """
    import os

    if isinstance(spec, (str, os.PathLike)):
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


# ---- a model at hand -----------------------------------------------------------------------------------------------


class CausalLMChooser:
    """
    A causal language model, read from its logits.

    Args:
        model (`str`, `os.PathLike` or `PreTrainedModel`): A hub id or folder, or a model that is loaded already.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): By default the one that comes with the model.
        quantization, dtype, device_map, revision, trust_remote_code (*optional*): As of
            [`~ee_trl.CausalLMScorer`].
        token_budget (`int`, *optional*): Tokens in one forward pass; changes no answer. By default 2,048 on a CPU and
            32,768 on a GPU.
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
        from .judge_model import DTYPES, QUANTIZATIONS, content_of, load_judge, weights_of
        from .prompt import control_tokens

        if quantization not in QUANTIZATIONS:
            raise ScorerError(unknown("quantization", quantization, QUANTIZATIONS))
        if dtype not in DTYPES:
            raise ScorerError(unknown("dtype", dtype, DTYPES))
        self.quantization = quantization
        if hasattr(model, "forward"):
            if tokenizer is None:
                raise ScorerError("a model that is loaded already needs its tokenizer: tokenizer=...")
            self.model, self.tokenizer, self._content = model, tokenizer, weights_of(model)
        else:
            loaded = load_judge(str(model), tokenizer, quantization, dtype, device_map, revision, trust_remote_code)
            self.model, self.tokenizer = loaded
            self._content = content_of(str(model), self.model)
        self._control = frozenset(control_tokens(self.tokenizer).values())
        self.token_budget = token_budget or (32_768 if self.model.device.type == "cuda" else 2_048)
        self.max_length = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 1 << 20

    @cached_property
    def fingerprint(self) -> str:
        """Names the model's content and its precision; what it is asked is the caller's."""
        precision = self.quantization if self.quantization != "none" else str(self.model.dtype).removeprefix("torch.")
        return f"{_LAYOUT}/{self._content}/{precision}"

    def choose(self, questions: Sequence[Question], options: Sequence[str]) -> np.ndarray:
        """Probabilities of shape `(n, options)` over the options alone; NaN where a question is too long."""
        import torch

        from .judge_model import last_logits

        chances = np.full((len(questions), len(options)), np.nan)
        texts = [self._ids_of(question, options) for question in questions]
        order = sorted((i for i, text in enumerate(texts) if text), key=lambda i: -len(texts[i][0]))  # type: ignore[index]
        start = 0
        while start < len(order):
            width = len(texts[order[start]][0])  # type: ignore[index]
            batch = order[start : start + max(1, self.token_budget // width)]
            logits = last_logits(self.model, [texts[i][0] for i in batch], keep=1)[:, -1]  # type: ignore[index]
            for row, i in enumerate(batch):
                first = logits[row, list(texts[i][1])]  # type: ignore[index]
                chances[i] = torch.softmax(first, dim=-1).double().cpu().numpy()
            start += len(batch)
        return chances

    def _ids_of(self, question: Question, options: Sequence[str]) -> tuple[list[int], tuple[int, ...]] | None:
        """The ids up to the answer slot, and the id of each option; `None` where the text is too long."""
        from .prompt import around_dialogue, turn_line

        before, after = around_dialogue(self.tokenizer, question.instruction.strip())
        slot, firsts = self._slot(question.slot, tuple(options))
        head, tail = self._trusted(before), [*self._trusted(f"{after}{SLOT_HEADER}\n"), *slot]
        turns = [self._untrusted(turn_line(role, text)) for role, text in question.turns]
        judged = [i for label, text in question.candidates for i in self._untrusted(candidate_line(label, text))]
        room = self.max_length - len(head) - len(tail) - len(judged)
        while turns and sum(map(len, turns)) > room:
            turns = turns[1:]
        if room < 0 or (question.turns and not turns):
            return None
        return [*head, *(i for turn in turns for i in turn), *judged, *tail], firsts

    def _slot(self, slot: str, options: tuple[str, ...]) -> tuple[list[int], tuple[int, ...]]:
        """The ids of the slot, and the one id of each option after it."""
        joined = [self._trusted(f"{slot} {option}") for option in options]
        # where a space and an option are one token for some options alone, the space goes to the slot
        apart = [[*self._trusted(f"{slot} "), *self._trusted(option)] for option in options]
        for answers in (joined, apart):
            heads, lasts = {tuple(ids[:-1]) for ids in answers}, tuple(ids[-1] for ids in answers)
            if len(heads) == 1 and len(set(lasts)) == len(options):
                return list(heads.pop()), lasts
        raise ScorerError(
            f"this tokenizer does not write each of the options {', '.join(options)} as one token after {slot!r}; "
            "give another judge"
        )

    def _trusted(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _untrusted(self, text: str) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [i for i in ids if i not in self._control]


def candidate_line(label: str, text: str) -> str:
    """How a judge is shown what it judges: on one line, whatever the text holds."""
    from .prompt import neutralised

    return f"{label}: {neutralised(text)}\n"


def question_text(question: Question, options: Sequence[str]) -> str:
    """The question as one text, for a judge behind a server."""
    from .prompt import turn_line

    lines = [turn_line(role, text) for role, text in question.turns]
    lines += [candidate_line(label, text) for label, text in question.candidates]
    form = f"Answer with one line: `{question.slot} ` and one of {', '.join(options)}."
    return f"{question.instruction.strip()}\n\n{form}\n\nDialogue:\n{''.join(lines)}".rstrip("\n")


# ---- a server ------------------------------------------------------------------------------------------------------


class ServerChooser:
    """
    A model behind an OpenAI-compatible server, asked once a question; every option must be one letter or digit.

    Args:
        model (`str`): The model's name on the server.
        base_url, api_key_env, timeout, max_retries (*optional*): As of [`~ee_trl.ServerScorer`].
        concurrency (`int`, *optional*, defaults to `8`): Requests under way at a time.
        max_tokens (`int`, *optional*, defaults to `24`): Longest answer.
        extra_body (`Mapping` or `str`, *optional*): Further fields of each request.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key_env: str | None = "OPENAI_API_KEY",
        concurrency: int = 8,
        timeout: float = 60.0,
        max_retries: int = 5,
        max_tokens: int = 24,
        extra_body: Any = None,
    ) -> None:
        from .chat import body_of
        from .endpoint import make_endpoint

        require("openai", extra="server", purpose="a judge behind a server")
        self.model, self.concurrency, self.max_tokens = model, concurrency, max_tokens
        self.endpoint = make_endpoint(base_url, api_key_env, timeout, max_retries)
        self.extra_body = body_of(extra_body)
        self._top: int | None = None  # how many alternatives the server lists, once it is known

    @cached_property
    def fingerprint(self) -> str:
        """Names model, server and request."""
        body = f"/body:{sha256(repr(sorted(self.extra_body.items())).encode()).hexdigest()[:12]}"
        return f"{_LAYOUT}/{self.model}@{self.endpoint.host}{body if self.extra_body else ''}"

    def choose(self, questions: Sequence[Question], options: Sequence[str]) -> np.ndarray:
        """Probabilities of shape `(n, options)`; NaN where the server gave no answer in the form."""
        from .background import in_background

        chances = np.full((len(questions), len(options)), np.nan)

        async def work(put: Callable[[tuple[int, np.ndarray]], None]) -> None:
            await self._ask_all(questions, options, put)

        for found in in_background(work):
            for i, row in found:
                chances[i] = row
        return chances

    async def _ask_all(self, questions: Sequence[Question], options: Sequence[str], put: Callable[..., None]) -> None:
        limit = asyncio.Semaphore(self.concurrency)

        async def one(client: Any, i: int) -> None:
            async with limit:
                put((i, await self._ask(client, questions[i], options)))

        async with self.endpoint.client() as client:
            if questions:
                await one(client, 0)  # finds out what the server gives
            try:
                async with asyncio.TaskGroup() as group:
                    for i in range(1, len(questions)):
                        group.create_task(one(client, i))
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None

    async def _ask(self, client: Any, question: Question, options: Sequence[str]) -> np.ndarray:
        from .chat import TOP, WITHOUT, complete, is_of_client

        text = question_text(question, options)
        for top in (*TOP, 0) if self._top is None else (self._top,):
            try:
                body = await complete(
                    client, self.model, text, top, max_tokens=self.max_tokens, extra_body=self.extra_body
                )
            except Exception as error:
                if not is_of_client(error):
                    raise
                status = getattr(error, "status_code", None)
                if self._top is None and top and status in WITHOUT:
                    continue
                said = self.endpoint.said(error)
                stop = self.endpoint.stopped_by(status, self.model, said) if isinstance(status, int) else None
                if stop is not None or self._top is None:
                    raise stop or ScorerError(f"{self.endpoint.host} does not answer: {said or error}") from None
                return np.full(len(options), np.nan)
            self._top = top
            return _read(body, question.slot, options)
        raise AssertionError("unreachable: without alternatives a refusal is raised")


def _read(body: Any, slot: str, options: Sequence[str]) -> np.ndarray:
    """The options' probabilities from a chat completion: by its alternatives, else by what was written."""
    from .completion import choice_of, text_of, tokens_of

    nothing = np.full(len(options), np.nan)
    choice = choice_of(body)
    if choice is None:
        return nothing
    text = text_of(choice)
    written = text.strip().removeprefix(slot).strip().rstrip(".")
    if written not in options:
        return nothing
    place = len(text[: text.rindex(written)].encode())
    end = 0
    for token in tokens_of(choice) or ():
        end += len(token.text)
        if end > place:
            found = np.array(
                [sum(p for t, p in token.alternatives if t.strip() == option.encode()) for option in options]
            )
            if found.sum() > 0 and token.text.strip() == written.encode():
                return found / found.sum()
            break
    return np.array([float(option == written) for option in options])
