"""What a judge behind a server is asked, what its refusals mean for the run, and the first request, the probe."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...data.dialogue import Dialogue
from ...errors import ScorerError, require
from .completion import choice_of, text_of, tokens_of
from .endpoint import Endpoint, reason_of
from .logprobs import has_alternatives
from .prompt import whole_prompt
from .rubric import Rubric, parse_form


logger = logging.getLogger(__name__)

TOP = (20, 5)  # alternatives asked for, most first: servers allow different numbers
WITHOUT = (400, 422, 501)  # how a server refuses a parameter
_PROBE = Dialogue(("I lost my keys today.",), "Oh no! Where did you last see them?", ("user",))


@dataclass(frozen=True)
class Chat:
    """
    One chat completion a sample.

    Args:
        endpoint ([`Endpoint`]): The server.
        model (`str`): The model's name there.
        rubric ([`Rubric`]): What it is asked.
        max_tokens (`int`): Longest answer.
        extra_body (`dict`): Further fields of each request, which go over the ones here.
    """

    endpoint: Endpoint
    model: str
    rubric: Rubric
    max_tokens: int
    extra_body: dict[str, Any]

    async def ask(self, client: Any, dialogue: Dialogue, top: int) -> Any:
        """The answer's JSON, with `top` alternatives a token; `None` where it is no JSON."""
        text = whole_prompt(self.rubric, dialogue)
        return await complete(client, self.model, text, top, max_tokens=self.max_tokens, extra_body=self.extra_body)

    async def stopped_by(self, client: Any, error: Exception) -> ScorerError | None:
        """What to raise after an answer that makes every further request useless; `None` for every other answer."""
        status = getattr(error, "status_code", None)
        if not isinstance(status, int):
            return None
        offers = await _models(client) if status == 404 else ""
        return self.endpoint.stopped_by(status, self.model, self.endpoint.said(error), offers)

    # ---- what can this server give?

    async def probe(self, logprobs: bool, text: bool) -> int:
        """
        Asks about a small dialogue, to find out what the server gives.

        Args:
            logprobs (`bool`): Whether log probabilities are wanted.
            text (`bool`): Whether it may do without.

        Returns:
            `int`: how many alternatives a token it lists, 0 for none.

        Raises:
            [`ScorerError`]: It does not answer, refuses access, has no such model, or not what is wanted.
        """
        why = "it leaves them out"
        async with self.endpoint.client() as client:
            for top in (*(TOP if logprobs else ()), *((0,) if text else ())):
                try:
                    body = await self.ask(client, _PROBE, top)
                except Exception as error:
                    if not is_of_client(error):
                        raise
                    status = getattr(error, "status_code", None)
                    if not top or status not in WITHOUT:
                        raise await self._unanswered(client, error, status) from None
                    why = self.endpoint.said(error) or f"it refuses them ({status})"
                    continue
                found = self._given(body, top)
                if found or text:
                    self._say(found, why, logprobs)
                    return found
                break
        raise ScorerError(
            f"{self.endpoint.host} gives no log probabilities for {self.model!r}: {why}. Leave out logprobs=True; its "
            "scores are then the integers that it writes"
        )

    async def _unanswered(self, client: Any, error: Exception, status: int | None) -> ScorerError:
        end = self.endpoint
        if status is None:
            what = "did not answer in time" if reason_of(error) == "server_timeout" else "cannot be reached"
            tried = f"tried {end.max_retries + 1} times, {end.timeout:g} s each"
            return ScorerError(f"{end.host} {what} ({tried}). Is the server running, and base_url its address?")
        words = f"status {status}. It says: {end.said(error) or 'nothing'}"
        stop = await self.stopped_by(client, error)
        return stop or ScorerError(f"{end.host} does not answer for {self.model!r}: {words}")

    def _given(self, body: Any, top: int) -> int:
        """`top`, or 0 where the answer came without alternatives."""
        choice = choice_of(body)
        if choice is None:
            raise ScorerError(
                f"{self.endpoint.host} answered with something that is no chat completion of one choice; is base_url "
                "that of an OpenAI-compatible server?"
            )
        text = text_of(choice)
        if parse_form(text) is None:
            logger.warning(
                "%s does not answer a plain dialogue in the rubric's form, but with %r: expect many samples without "
                "scores. A model that thinks first needs it turned off (extra_body) or a higher max_tokens",
                self.model,
                text[:80],
            )
        tokens = tokens_of(choice) if top else None
        return top if tokens and has_alternatives(tokens) else 0

    def _say(self, found: int, why: str, wanted: bool) -> None:
        host = self.endpoint.host
        if found:
            logger.info("%s gives log probabilities: scores are expected values", host)
        elif wanted:
            logger.info("%s gives no log probabilities (%s): scores are the integers it writes", host, why)


async def complete(
    client: Any, model: str, text: str, top: int, *, max_tokens: int, extra_body: dict[str, Any]
) -> Any:
    """A greedy chat completion's JSON, with `top` alternatives a token; `None` where it is no JSON."""
    asked: dict[str, Any] = {"logprobs": True, "top_logprobs": top} if top else {}
    response = await client.chat.completions.with_raw_response.create(
        model=model,
        messages=[{"role": "user", "content": text}],
        temperature=0,
        max_tokens=max_tokens,
        extra_body=extra_body or None,
        **asked,
    )
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        return None


def body_of(extra: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """The further fields of a request, from a mapping or JSON text."""
    try:
        found = json.loads(extra) if isinstance(extra, str) else dict(extra or {})
        json.dumps(found)
    except (TypeError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise ScorerError('extra_body is not a JSON object; valid: e.g. {"chat_template_kwargs": {...}}')
    return found


def is_of_client(error: Exception) -> bool:
    """Whether an error is one of a request, not of this program."""
    openai = require("openai", extra="server", purpose="scoring by a server")
    return isinstance(error, (openai.OpenAIError, TimeoutError))


async def _models(client: Any) -> str:
    """What the server offers, for an error message; empty where it does not say."""
    try:
        response = await client.models.with_raw_response.list()
        names = [str(entry["id"]) for entry in json.loads(response.content)["data"]]
    except Exception:  # it is only for the message
        return ""
    return ", ".join(repr(name[:80]) for name in names[:10]) + (", ..." if len(names) > 10 else "")
