"""A judge behind an OpenAI-compatible server (vLLM, SGLang, TGI, hosted): one chat completion a sample.

The judge fills in the rubric's form. Where the server gives log probabilities, each score is the expected value over
the answers 0 to 10 at its number; where not, the number itself. Every sample ends with scores or with the reason why
it has none.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal

import numpy as np

from ...data.dialogue import NOT_ASKED, Dialogue
from ...errors import ScorerError, require, unknown
from ..base import ScoredBatch
from .answers import DETAILS, gathered
from .background import in_background
from .chat import Chat, body_of, is_of_client
from .completion import Answer, batch_of, read_answer, without
from .endpoint import DEFAULT_KEY_ENV, make_endpoint, reason_of
from .rubric import Rubric, load_rubric


logger = logging.getLogger(__name__)

GIVE_UP_AFTER = 20
"""Samples lost one after the other, to a server that does not answer, before the rest is not asked any more."""

_LAYOUT = "server-1"  # changes when the request does
_LOST = ("server_timeout", "server_unavailable")


class ServerScorer:
    """
    Scores dialogues with a model behind an OpenAI-compatible server and a rubric.

    Args:
        model (`str`):
            The model's name on the server.
        base_url (`str`, *optional*):
            Where the server is, e.g. `"http://127.0.0.1:8000/v1"`. By default `$OPENAI_BASE_URL`, or OpenAI itself.
        api_key_env (`str`, *optional*, defaults to `"OPENAI_API_KEY"`):
            Name of the environment variable that holds the key. A server of your own needs none.
        rubric (`str`, `os.PathLike` or [`Rubric`], *optional*):
            A text file in the place of the bundled rubric.
        logprobs (`bool` or `"auto"`, *optional*, defaults to `"auto"`):
            Whether scores are expected values from the server's log probabilities (`True`) or the integers that it
            writes (`False`); `"auto"` asks the server once which it can give.
        concurrency (`int`, *optional*, defaults to `8`):
            Requests under way at a time. Changes no score.
        timeout (`float`, *optional*, defaults to `60.0`):
            Seconds for one attempt.
        max_retries (`int`, *optional*, defaults to `5`):
            Further attempts, with the official client's backoff, after 408, 409, 429, 5xx, timeouts and lost
            connections.
        max_tokens (`int`, *optional*, defaults to `128`):
            Longest answer; the form takes about 25 tokens.
        extra_body (`Mapping` or `str`, *optional*):
            Further fields of each request, as a mapping or JSON text, e.g.
            `{"chat_template_kwargs": {"enable_thinking": False}}`; they go over this class's own.
        name (`str`, *optional*):
            Stands for the server in the fingerprint; by default its host and port.

    Raises:
        [`ScorerError`]: An option is not valid, the key is missing, or (when it is first asked) the server does not
            answer, refuses access, or has no such model.
    """

    details = DETAILS

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key_env: str | None = DEFAULT_KEY_ENV,
        rubric: str | os.PathLike[str] | Rubric | None = None,
        logprobs: bool | Literal["auto"] = "auto",
        concurrency: int = 8,
        timeout: float = 60.0,
        max_retries: int = 5,
        max_tokens: int = 128,
        extra_body: Mapping[str, Any] | str | None = None,
        name: str | None = None,
    ) -> None:
        require("openai", extra="server", purpose="scoring by a server")
        for what, text in (("model", model), ("name", "-" if name is None else name)):
            if not isinstance(text, str) or not text.strip() or not text.isprintable():
                raise ScorerError(f"{what} {text!r} is not a name: it is not one line of text")
        if not (isinstance(logprobs, bool) or logprobs == "auto"):
            raise ScorerError(unknown("logprobs", logprobs, ("auto", "True", "False")))
        for what, number in (("concurrency", concurrency), ("max_tokens", max_tokens)):
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise ScorerError(f"{what} {number!r} is not a whole number of at least 1")
        self.model = model
        self.endpoint = make_endpoint(base_url, api_key_env, timeout, max_retries)
        self.rubric = rubric if isinstance(rubric, Rubric) else load_rubric(rubric)
        self.logprobs = logprobs
        self.concurrency = concurrency
        self.max_tokens = max_tokens
        self.extra_body = body_of(extra_body)
        self.name = name or self.endpoint.host
        self._chat = Chat(self.endpoint, model, self.rubric, max_tokens, self.extra_body)
        self._lost = 0  # samples one after the other, over all calls
        self._told: set[str] = set()  # which warnings were given

    def __repr__(self) -> str:
        return f"ServerScorer({self.model!r}, name={self.name!r}, rubric={self.rubric.name!r})"

    @cached_property
    def fingerprint(self) -> str:
        """Names model, server, rubric and what is read; the server is asked for that unless `logprobs` is `False`."""
        top = 0 if self.logprobs is False else self.top_logprobs
        found = f"{_LAYOUT}/{self.model}@{self.name}/{self.rubric.fingerprint}/{f'logprobs:{top}' if top else 'text'}"
        if self.extra_body:
            text = json.dumps(self.extra_body, sort_keys=True)
            found += f"/body:{sha256(text.encode()).hexdigest()[:12]}"
        return found

    # ---- scoring

    def score(self, dialogues: Sequence[Dialogue]) -> np.ndarray:
        """Scores of shape `(n, 2)`: sensibility, rationality; NaN where a sample has none."""
        return self.score_with_details(dialogues)[0]

    def score_with_details(self, dialogues: Sequence[Dialogue]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The scores, and for each of [`DETAILS`] an array of shape `(n,)`, NaN where it is not known."""
        return gathered(self.score_batches(dialogues), len(dialogues))

    def score_batches(self, dialogues: Sequence[Dialogue]) -> Iterator[ScoredBatch]:
        """
        Scores dialogues, and hands out each as soon as it is answered. Closing the iterator cancels what is left.

        `forward_tokens` are the server's own count of prompts and answers, 0 where it gives none; `tokens`, of the
        dialogues alone, it does not tell: 0.

        Raises:
            [`ScorerError`]: The server does not let anything more be asked (401, 402, 404).
        """
        if not dialogues:
            return
        top = self.top_logprobs

        async def work(put: Callable[[Answer], None]) -> None:
            await self._ask_all(dialogues, top, put)

        for answers in in_background(work):
            yield batch_of(answers, top)

    async def _ask_all(self, dialogues: Sequence[Dialogue], top: int, put: Callable[[Answer], None]) -> None:
        todo = iter(enumerate(dialogues))
        self._lost = min(self._lost, GIVE_UP_AFTER - 1)  # after a call that gave up, one more lost sample is enough

        async def worker(client: Any) -> None:
            for index, dialogue in todo:
                if self._lost >= GIVE_UP_AFTER:
                    put(without(NOT_ASKED, index))
                    continue
                answer = await self._ask_one(client, index, dialogue, top)
                put(answer)
                self._count(answer)

        async with self.endpoint.client() as client:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self.concurrency, len(dialogues))):
                        group.create_task(worker(client))
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None

    def _count(self, answer: Answer) -> None:
        """Keeps count of samples lost one after the other, and says so once when they are too many."""
        if answer.reason not in _LOST:
            self._lost = 0
            self._told.discard("lost")
            return
        self._lost += 1
        if self._lost >= GIVE_UP_AFTER and "lost" not in self._told:
            self._told.add("lost")
            logger.warning(
                "%s did not answer %d samples one after the other (the last: %s); the rest of this call is not asked "
                "and stays unscored; the same command asks it when the server is back",
                self.endpoint.host,
                GIVE_UP_AFTER,
                answer.reason,
            )

    async def _ask_one(self, client: Any, index: int, dialogue: Dialogue, top: int) -> Answer:
        try:
            body = await self._chat.ask(client, dialogue, top)
        except Exception as error:
            if not is_of_client(error):
                raise
            status = getattr(error, "status_code", None)
            # after the probe had access, 403 is about this sample: some hosts refuse single texts that way
            stop = await self._chat.stopped_by(client, error) if status != 403 else None
            if stop is not None:
                raise stop from None
            reason = reason_of(error)
            if reason == "server_refused" and reason not in self._told:
                self._told.add(reason)
                logger.warning("%s refuses a sample (%s): %s", self.endpoint.host, status, self.endpoint.said(error))
            return without(reason, index)
        return read_answer(body, index, top)

    # ---- what can this server give?

    @cached_property
    def top_logprobs(self) -> int:
        """How many alternatives a token the server gives, 0 for none: asked once, on a small dialogue."""

        async def work(put: Callable[[int], None]) -> None:
            put(await self._chat.probe(logprobs=self.logprobs is not False, text=self.logprobs is not True))

        [[found]] = in_background(work)
        return found
