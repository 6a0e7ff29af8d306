"""A judge behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp, hosted).

A probe finds out in which of the [`ways`][ee_trl.scoring.judge.ways] the server can be asked. Where it gives log
probabilities, each score is the expected value over the answers 0 to 10 at its number; otherwise the number itself.
Every sample ends with scores or with the reason why it has none.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

from ...axes import AXES
from ...data.dialogue import NOT_ASKED, Dialogue
from ...errors import ScorerError, check_count, unknown
from ...files import json_digest
from ..base import ScoredBatch
from .answers import Answer, BatchedJudge, Completion, batch_of
from .endpoint import DEFAULT_KEY_ENV, Endpoint, client_errors, each_answered, in_background, reason_of
from .prompt import whole_prompt
from .rubric import Rubric, load_rubric, parse_form
from .ways import ByAxis, Grammar, Schema, Slots, Way


logger = logging.getLogger(__name__)

TOP = (20, 5)
"""How many alternatives a token to request, the most first: servers allow different numbers."""
OTHER_PARAMETERS = '{"max_tokens": null, "max_completion_tokens": 512}'
GIVE_UP_AFTER = 20
"""After this many unanswered samples in a row, the server is not asked for the rest."""

_LAYOUT = "server-2"  # changes when the request does
_MAX_TOKENS = 128
_PROBE = Dialogue(("I lost my keys today.",), "Oh no! Where did you last see them?", ("user",))


@dataclass
class Chat:
    """Chat completions of one model; for the fields see [`ServerScorer`]."""

    endpoint: Endpoint
    model: str
    max_tokens: int
    extra_body: dict[str, Any]
    _told: bool = field(default=False, init=False)  # whether a refusal was logged

    async def ask(
        self, client: Any, text: str, top: int, written: str = "", fields: Mapping[str, Any] | None = None
    ) -> tuple[Any, str | None]:
        """
        An answer's JSON (`None` where it is not JSON), or why there is none ([`~ee_trl.data.dialogue.REASONS`]).

        `written` is the beginning of the answer that the server is to continue; `fields` are the request's further
        ones.
        """
        try:
            return await self._complete(client, text, top, written, fields), None
        except client_errors() as error:
            status = getattr(error, "status_code", None)
            # once the server has given access, 403 is about this text: some hosts refuse single texts that way
            stop = await self._stop(client, error) if status != 403 else None
            if stop is not None:
                raise stop from None
            reason = reason_of(error)
            if reason == "server_refused" and not self._told:
                self._told = True
                said = self.endpoint.said(error)
                logger.warning("%s refuses a sample (%s): %s", self.endpoint.host, status, said)
            return None, reason

    async def ask_first(self, client: Any, text: str, tops: Sequence[int]) -> tuple[Any, int | None, str]:
        """The first answer's JSON, which of `tops` the server accepted, if any, and why it gives no more."""
        why = "it leaves them out"
        for top in tops:
            try:
                return await self._complete(client, text, top), top, why
            except client_errors() as error:
                status = getattr(error, "status_code", None)
                if not top or status not in (400, 422, 501):  # it refuses a parameter
                    raise await self._unanswered(client, error, status) from None
                why = self.endpoint.said(error) or f"it refuses them ({status})"
        return None, None, why

    async def follows(self, client: Any, text: str, top: int, way: ByAxis) -> bool:
        """Whether the server does what this way of asking tells it; a refusal is a no."""
        try:
            return way.followed(await self._complete(client, text, top, *way.request(AXES[0])), AXES[0])
        except client_errors() as error:
            status = getattr(error, "status_code", None)
            if status in (None, 408, 409, 429, 502, 503, 504):
                raise await self._unanswered(client, error, status) from None
            return False

    async def served(self, client: Any, body: Any) -> str:
        """The model's name; where the server ignores that name, the name of the model that it says it serves."""
        names = await _models(client)
        if not names or self.model in names:
            return self.model
        said = body.get("model") if isinstance(body, dict) else None
        known = said if isinstance(said, str) and (said in names or len(names) > 1) else names[0]
        short = re.split(r"[/\\]", known)[-1] if re.match(r"[/\\~.]|[A-Za-z]:", known) else known  # a path's end
        return self.endpoint.shown(short, 80) or self.model

    async def _complete(
        self, client: Any, text: str, top: int, written: str = "", fields: Mapping[str, Any] | None = None
    ) -> Any:
        asked: dict[str, Any] = {"logprobs": True, "top_logprobs": top} if top else {}
        messages = [{"role": "user", "content": text}]
        response = await client.chat.completions.with_raw_response.create(
            model=self.model,
            messages=[*messages, {"role": "assistant", "content": written}] if written else messages,
            temperature=0,
            max_tokens=self.max_tokens,
            extra_body={**(fields or {}), **self.extra_body} or None,
            **asked,
        )
        try:
            return json.loads(response.content)
        except (ValueError, RecursionError):
            return None

    async def _stop(self, client: Any, error: Exception) -> ScorerError | None:
        """The error for an answer that makes every further request useless; `None` for every other answer."""
        end, status = self.endpoint, getattr(error, "status_code", None)
        said = end.said(error) if status != 401 else ""  # a server's words about a key may show parts of it
        words = f" It says: {said}" if said else ""
        if status in (401, 403) and not end.api_key_env:
            return ScorerError(
                f"{end.host} wants a key ({status}), but none was sent. Put it into the environment variable "
                f"{DEFAULT_KEY_ENV}, or name another by api_key_env=....{words}"
            )
        if status in (401, 403):
            return ScorerError(
                f"{end.host} refuses access ({status}) with the key in the environment variable {end.api_key_env}. "
                f"Put a key there that this server and the model {self.model!r} accept.{words}"
            )
        if status == 402:
            return ScorerError(f"{end.host} wants payment (402) before it answers.{words}")
        if status is not None and 300 <= status < 400:
            response: Any = getattr(error, "response", None)
            place = end.shown(str(response.headers.get("location", "")))
            return ScorerError(
                f"{end.host} redirects requests ({status}) to {place!r}, and redirects are not followed: dialogues go "
                "to no host that you did not name. If that address is right, give it as base_url"
            )
        if status == 404:
            names = [repr(end.shown(name, 80)) for name in await _models(client)]
            offers = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            has = f"it offers {offers}" if offers else "a base_url normally ends in /v1"
            return ScorerError(
                f"{end.host} knows no model {self.model!r}, or no chat completions (404); {has}.{words}"
            )
        return None

    async def _unanswered(self, client: Any, error: Exception, status: int | None) -> ScorerError:
        end = self.endpoint
        if status is None:
            what = "did not answer in time" if reason_of(error) == "server_timeout" else "cannot be reached"
            tried = f"tried {end.max_retries + 1} times, {end.timeout:g} s each"
            return ScorerError(f"{end.host} {what} ({tried}). Is the server running? Is base_url right?")
        words = f"status {status}. It says: {end.said(error) or 'nothing'}"
        if status == 503:
            words += ". If it is loading its model, run the same command again when it is ready"
        if status in (400, 422):
            words += f". If it wants other parameters: --extra-body '{OTHER_PARAMETERS}' (extra_body=...), as it says"
        return await self._stop(client, error) or ScorerError(
            f"{end.host} does not answer for {self.model!r}: {words}"
        )


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


async def _models(client: Any) -> list[str]:
    """The models that the server offers, and their other names; empty where it does not say."""
    try:
        response = await client.with_options(max_retries=1).models.with_raw_response.list()
        entries = json.loads(response.content)["data"]
        return [str(name) for entry in entries for name in (entry["id"], *(entry.get("aliases") or ()))]
    except Exception:  # many servers have no such list
        return []


class Found(NamedTuple):
    """What the probe found out: how the server is asked, how many alternatives it lists, and what it serves."""

    way: Way
    top: int
    model: str


class ServerScorer(BatchedJudge):
    """
    Scores dialogues with a model behind an OpenAI-compatible server and a rubric.

    Args:
        model (`str`): The model's name on the server.
        base_url (`str`, *optional*):
            The server's address, e.g. `"http://127.0.0.1:8000/v1"`. By default `$OPENAI_BASE_URL`, or OpenAI itself.
        api_key_env (`str`, *optional*, defaults to `"OPENAI_API_KEY"`):
            Name of the environment variable that holds the key. A server of your own needs none.
        rubric (`str`, `os.PathLike` or [`Rubric`], *optional*): A text file that replaces the bundled rubric.
        logprobs (`bool` or `"auto"`, *optional*, defaults to `"auto"`):
            Whether scores are expected values from the server's log probabilities (`True`) or the integers that the
            model writes (`False`); `"auto"` asks the server once which it can give.
        concurrency (`int`, *optional*, defaults to `8`): Requests at a time. Changes no score.
        timeout (`float`, *optional*, defaults to `60.0`): Seconds for one attempt.
        max_retries (`int`, *optional*, defaults to `5`):
            Further attempts, with the official client's backoff, after 408, 409, 429, 5xx, timeouts and lost
            connections.
        max_tokens (`int`, *optional*, defaults to `128`): Longest answer; the form takes about 25 tokens.
        extra_body (`Mapping` or `str`, *optional*):
            Further fields of each request, as a mapping or JSON text, e.g.
            `{"chat_template_kwargs": {"enable_thinking": False}}`; they replace this class's own.
        name (`str`, *optional*): Stands for the server in the fingerprint; by default its host and port.

    Raises:
        [`ScorerError`]: An option is not valid, the key is missing, or (when it is first asked) the server does not
            answer, refuses access, or has no such model.
    """

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
        max_tokens: int = _MAX_TOKENS,
        extra_body: Mapping[str, Any] | str | None = None,
        name: str | None = None,
    ) -> None:
        for what, text in (("model", model), ("name", "-" if name is None else name)):
            if not isinstance(text, str) or not text.strip() or not text.isprintable():
                raise ScorerError(f"{what} {text!r} is not a name: it is not one line of text")
        if not (isinstance(logprobs, bool) or logprobs == "auto"):
            raise ScorerError(unknown("logprobs", logprobs, ("auto", "True", "False")))
        check_count("concurrency", concurrency, error=ScorerError)
        check_count("max_tokens", max_tokens, error=ScorerError)
        self.endpoint = Endpoint(base_url, api_key_env, timeout, max_retries)
        self.chat = Chat(self.endpoint, model, max_tokens, body_of(extra_body))
        self.rubric = rubric if isinstance(rubric, Rubric) else load_rubric(rubric)
        self.model, self.logprobs, self.concurrency = model, logprobs, concurrency
        self.name = name or self.endpoint.host
        self._lost = 0  # unanswered samples in a row, over all calls
        self._told = False  # whether this outage was logged

    def __repr__(self) -> str:
        return f"ServerScorer({self.model!r}, name={self.name!r}, rubric={self.rubric.name!r})"

    @cached_property
    def fingerprint(self) -> str:
        """Names model, server, rubric, request and number of alternatives read, as the server shows them."""
        way, top, model = self.found
        parts = [_LAYOUT, f"{model}@{self.name}", self.rubric.fingerprint, f"logprobs:{top}" if top else "text"]
        if type(way) is not Way:
            parts.append(way.name)
        if self.chat.extra_body:
            parts.append(f"body:{json_digest(self.chat.extra_body)}")
        if self.chat.max_tokens != _MAX_TOKENS:  # added later: scores by the default keep their name
            parts.append(f"tokens:{self.chat.max_tokens}")
        return "/".join(parts)

    def score_batches(self, dialogues: Sequence[Dialogue]) -> Iterator[ScoredBatch]:
        """
        Scores dialogues, and hands out each as soon as it is answered. Closing the iterator cancels what is left.

        `forward_tokens` is the server's own count of prompts and answers, 0 where it gives none. Raises
        [`ScorerError`] where every further request would be useless (401, 402, 404).
        """
        if not dialogues:
            return
        way, top, _ = self.found
        self._lost = min(self._lost, GIVE_UP_AFTER - 1)  # after a call that gave up, one more lost sample is enough

        async def ask(client: Any, item: tuple[int, Dialogue]) -> Answer:
            index, dialogue = item
            if self._lost >= GIVE_UP_AFTER:
                return Answer(index, NOT_ASKED)

            async def counted(*request: Any) -> tuple[Any, str | None]:
                body, reason = await self.chat.ask(client, request[0], top, *request[1:])
                self._count(reason)
                return body, reason

            return await way.answer(counted, whole_prompt(self.rubric, dialogue), index, top)

        for answers in each_answered(self.endpoint, list(enumerate(dialogues)), ask, self.concurrency):
            yield batch_of(answers, top)

    def _count(self, reason: str | None) -> None:
        """Counts samples lost one after the other; one warning where they are too many."""
        if reason not in ("server_timeout", "server_unavailable"):
            self._lost, self._told = 0, False
            return
        self._lost += 1
        if self._lost >= GIVE_UP_AFTER and not self._told:
            self._told = True
            logger.warning(
                "%s did not answer %d samples one after the other (the last: %s). The other samples of this call "
                "stay unscored; run the same command again when the server is back",
                self.endpoint.host,
                GIVE_UP_AFTER,
                reason,
            )

    @property
    def top_logprobs(self) -> int:
        """How many alternatives a token the server gives, 0 for none."""
        return self.found.top

    @cached_property
    def found(self) -> Found:
        """How the server is asked: found out once, on a small dialogue."""

        async def work(put: Callable[[Found], None]) -> None:
            put(await self._probe())

        [[found]] = in_background(work)
        return found

    async def _probe(self) -> Found:
        wanted, may_be_text = self.logprobs is not False, self.logprobs is not True
        tops = (*(TOP if wanted else ()), *((0,) if may_be_text else ()))
        text, host = whole_prompt(self.rubric, _PROBE), self.endpoint.host
        async with self.endpoint.client() as client:
            body, top, why = await self.chat.ask_first(client, text, tops)
            answer = Completion.read(body) if top is not None else None
            if top is not None and answer is None:
                raise ScorerError(
                    f"{host} gave no chat completion of one choice; check that base_url is "
                    "the address of an OpenAI-compatible server"
                )
            top = top if top and answer and answer.has_alternatives else 0
            if not top and not may_be_text:
                raise ScorerError(
                    f"{host} gives no log probabilities for {self.model!r}: {why}. Leave out logprobs=True; scores "
                    "are then the integers that the model writes"
                )
            in_form = answer is not None and not answer.cut_off and parse_form(answer.text) is not None
            ways: list[ByAxis] = [*([Slots()] if top else []), *([] if in_form else [Grammar(), Schema()])]
            way = Way()
            for other in ways:
                if await self.chat.follows(client, text, top, other):
                    way = other
                    break
            model = await self.chat.served(client, body)
        if top:
            logger.info("%s gives log probabilities: scores are expected values", host)
        elif wanted:
            logger.info("%s gives no log probabilities (%s): scores are the integers it writes", host, why)
        if model != self.model:
            logger.warning(
                "%s serves %r whatever name it is asked for; the scores are kept under that name", host, model
            )
        if answer is not None and not in_form and type(way) is Way:
            logger.warning(
                "%s does not answer a plain dialogue in the rubric's form, but with %r%s: expect many samples without "
                "scores. If the model thinks first, turn this off, or let it write more: --extra-body "
                "'{\"max_tokens\": 2048}' (extra_body=...)",
                self.model,
                self.endpoint.shown(answer.written, 80),
                ", which is cut off" if answer.cut_off else "",
            )
        return Found(way, top, model)
