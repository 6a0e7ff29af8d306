"""A model behind a server that chooses: one chat completion a question, strictly read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np

from ...errors import ScorerError, require
from .background import in_background
from .chat import TOP, WITHOUT, body_of, complete, is_of_client
from .chooser import LAYOUT, Question, question_text
from .completion import choice_of, text_of, tokens_of
from .endpoint import make_endpoint


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
        require("openai", extra="server", purpose="a judge behind a server")
        self.model, self.concurrency, self.max_tokens = model, concurrency, max_tokens
        self.endpoint = make_endpoint(base_url, api_key_env, timeout, max_retries)
        self.extra_body = body_of(extra_body)
        self._top: int | None = None  # how many alternatives the server lists, once it is known

    @cached_property
    def fingerprint(self) -> str:
        """Names model, server and request."""
        body = f"/body:{sha256(repr(sorted(self.extra_body.items())).encode()).hexdigest()[:12]}"
        return f"{LAYOUT}/{self.model}@{self.endpoint.host}{body if self.extra_body else ''}"

    def choose(self, questions: Sequence[Question], options: Sequence[str]) -> np.ndarray:
        """Probabilities of shape `(n, options)`; NaN where the server gave no answer in the form."""
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
            return read_choice(body, question.slot, options)
        raise AssertionError("unreachable: without alternatives a refusal is raised")


def read_choice(body: Any, slot: str, options: Sequence[str]) -> np.ndarray:
    """The options' probabilities from a chat completion: by its alternatives, else by what was written."""
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
