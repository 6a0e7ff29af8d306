"""An OpenAI-compatible server: where it is, its key, what its refusals mean, and many requests at a time.

The key is read from the environment whenever a client is made, and kept nowhere else. It is taken out of a server's
words before they are repeated.
"""

from __future__ import annotations

import asyncio
import html
import logging
import os
import queue
import re
import threading
import unicodedata
from base64 import b64encode
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from ...display import plain, shortened
from ...errors import ScorerError, check_count, require


logger = logging.getLogger(__name__)

DEFAULT_URL = "https://api.openai.com/v1"
DEFAULT_KEY_ENV = "OPENAI_API_KEY"

Item = TypeVar("Item")
Result = TypeVar("Result")


class Endpoint:
    """An OpenAI-compatible server; for the arguments see [`~ee_trl.ServerScorer`]."""

    def __init__(self, base_url: str | None, api_key_env: str | None, timeout: float, max_retries: int) -> None:
        _openai()  # raises at once where it is not installed
        if not isinstance(timeout, (int, float)) or isinstance(timeout, bool) or not 0 < timeout < float("inf"):
            raise ScorerError(f"timeout {timeout!r} is not valid; valid: seconds, more than 0")
        check_count("max_retries", max_retries, 0, ScorerError)
        self.timeout, self.max_retries = float(timeout), max_retries
        given = base_url or os.environ.get("OPENAI_BASE_URL", "").strip()
        self.base_url = _checked_url(given) if given else DEFAULT_URL
        parts = urlsplit(self.base_url)
        self.host = parts.netloc.lower()  # with the port: 127.0.0.1:8000
        self.api_key_env = _checked_key_env(api_key_env, needed=not given) if api_key_env else None
        if self.api_key_env and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            logger.warning("the key in %s goes to %s unencrypted (http)", self.api_key_env, parts.netloc)

    @property
    def _key(self) -> str | None:
        return _read_key(self.api_key_env) if self.api_key_env else None

    def client(self) -> Any:
        """A new `openai.AsyncOpenAI`, for the event loop that it is made in."""
        openai = _openai()
        return openai.AsyncOpenAI(
            api_key=self._key or "none",  # the client requires a key; your own server ignores it
            base_url=self.base_url,
            timeout=self.timeout,
            max_retries=self.max_retries,
            http_client=_bounded(openai.DefaultAsyncHttpxClient, 1.5 * self.timeout),
        )

    def said(self, error: Exception) -> str:
        """A server's own words about a refusal, as [`Endpoint.shown`] shows them."""
        body = getattr(error, "body", None)
        found = body if isinstance(body, str) else ""
        if isinstance(body, dict):
            inner = body.get("error")
            source = inner if isinstance(inner, dict) else body
            words = (source.get("message"), source.get("detail"), inner)
            found = next((str(word) for word in words if word), "")
        return self.shown(found)

    def shown(self, text: str, limit: int = 200) -> str:
        """A server's text on one line, not too long; without the key, or withheld where it may show parts of it."""
        key = self._key
        if key:
            text = text.replace(key, "***")
            if _repeats(text, key):
                return "(not shown: it repeats parts of the key)"
        return shortened(" ".join(plain(text).split()), limit)


def _checked_url(url: str) -> str:
    remedy = "valid: e.g. http://127.0.0.1:8000/v1"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ScorerError(f"base_url is not an address of a server; {remedy}") from None
    if "@" in url or parts.query or parts.fragment:  # may be secrets, so they are not repeated
        raise ScorerError(
            "base_url holds a user, password, query or fragment (not shown here). Leave them out; put a key into an "
            f"environment variable, and give its name by api_key_env=.... {remedy}"
        )
    if parts.scheme not in ("http", "https") or not host or not url.isprintable() or " " in url:
        raise ScorerError(f"base_url {url!r} is not an address of a server; {remedy}")
    return url


def _checked_key_env(name: str, needed: bool) -> str | None:
    """The name of the variable with the key; `None` where the usual one is not set and the key is not needed."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise ScorerError(
            "api_key_env is not the name of an environment variable (not shown here: it may be the key itself); give "
            f"the name alone, e.g. {DEFAULT_KEY_ENV}, and the key as that variable's value"
        )
    if _read_key(name) is not None:
        return name
    if name != DEFAULT_KEY_ENV:
        usual = re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", name)
        shown = name if usual else "that api_key_env names (not shown here: it may be the key itself)"
        raise ScorerError(f"no key: the environment variable {shown} is not set")
    if needed:
        raise ScorerError(
            f"no key for {DEFAULT_URL}: the environment variable {name} is not set. Set it, or name a server of your "
            "own by base_url=..., e.g. http://127.0.0.1:8000/v1"
        )
    return None


def _read_key(name: str) -> str | None:
    key = os.environ.get(name, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ScorerError(f"the environment variable {name} holds something that is no key: it is not one plain word")
    return key or None


_LEAST = 8  # a run of so many letters and digits of a key is a part of it


def _repeats(text: str, key: str) -> bool:
    """Whether a text holds the key or a part of it: as it is, apart, backwards, or in a usual encoding."""
    raw = key.encode()
    shifted = (b64encode(bytes(n) + raw).decode()[(8 * n + 5) // 6 : 8 * (n + len(raw)) // 6] for n in range(3))
    forms = [key, key[::-1], raw.hex(), "".join(f"u00{byte:02x}" for byte in raw), *shifted]
    texts = [text, unquote(unquote(text)), html.unescape(text)]
    if len(_squeezed(key)) < _LEAST:
        return any(form in where for form in (key, *forms[2:]) if len(form) > 3 for where in texts)
    places = "\n".join(_squeezed(unicodedata.normalize("NFKC", where)) for where in texts)
    parts = (form[i : i + _LEAST] for form in map(_squeezed, forms) for i in range(len(form) - _LEAST + 1))
    return any(part in places for part in parts)


def _squeezed(text: str) -> str:
    return re.sub(r"[\W_]", "", text).casefold()


def _openai() -> Any:
    return require("openai", extra="server", purpose="a judge behind a server")


def _bounded(base: type, seconds: float) -> Any:
    """
    An HTTP client whose attempts end after so many seconds even where an answer drips in byte by byte.

    It follows no redirect: dialogues and key go to the host that the user named, and to no other.
    """

    class Client(base):
        async def send(self, *args: Any, **options: Any) -> Any:
            async with asyncio.timeout(seconds):
                return await super().send(*args, **options)

    return Client(follow_redirects=False)


def client_errors() -> tuple[type[Exception], ...]:
    """The errors that a request can raise, unlike errors of this program."""
    return _openai().OpenAIError, TimeoutError


def reason_of(error: Exception) -> str:
    """Why a request failed after the client's own retries, one of [`~ee_trl.data.dialogue.REASONS`]."""
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        if status == 408:
            return "server_timeout"
        if status in (409, 429) or status >= 500:
            return "server_unavailable"
        return "server_refused" if status >= 400 else "server_malformed"
    if isinstance(error, TimeoutError) or type(error).__name__ == "APITimeoutError":
        return "server_timeout"
    return "server_unavailable"


def each_answered(
    endpoint: Endpoint, items: Sequence[Item], ask: Callable[[Any, Item], Awaitable[Result]], concurrency: int
) -> Iterator[list[Result]]:
    """Runs `ask(client, item)` for each item [`in_background`], `concurrency` at a time; gives each result at once."""

    async def work(put: Callable[[Result], None]) -> None:
        todo = iter(items)

        async def worker(client: Any) -> None:
            for item in todo:
                put(await ask(client, item))

        async with endpoint.client() as client:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(concurrency, len(items))):
                        group.create_task(worker(client))
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None

    return in_background(work)


@dataclass(frozen=True)
class _End:
    """The thread's last result: how the work ended."""

    error: BaseException | None = None


def in_background(work: Callable[[Callable[[Result], None]], Coroutine[Any, Any, None]]) -> Iterator[list[Result]]:
    """
    Runs `work(put)` in an event loop in another thread, as an ordinary iterator: for scripts and notebooks alike.

    Closing the iterator, or an interrupt while it waits, cancels the work and what it waits for.
    """
    results: queue.SimpleQueue[Result | _End] = queue.SimpleQueue()
    loop = asyncio.new_event_loop()
    task = loop.create_task(work(results.put))

    def run() -> None:
        end = _End()
        try:
            loop.run_until_complete(task)
        except BaseException as raised:  # noqa: B036  # handed to the thread that waits for it
            end = _End(raised)
        results.put(end)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    thread = threading.Thread(target=run, name="ee-trl requests", daemon=True)
    thread.start()
    try:
        end: _End | None = None
        while end is None:
            found: list[Result] = []
            with suppress(queue.Empty):
                item = results.get(timeout=0.5)  # an endless wait would miss an interrupt on some systems
                while not isinstance(item, _End):
                    found.append(item)
                    item = results.get_nowait()
                end = item
            if found:
                yield found
        if end.error is not None:
            raise end.error
    finally:
        if thread.is_alive():
            with suppress(RuntimeError):  # it has just closed
                loop.call_soon_threadsafe(task.cancel)
            thread.join(timeout=5)
