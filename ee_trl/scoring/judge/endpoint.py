"""Where a server is, the key it is given, and what its refusals mean.

The key is read from the environment whenever a client is made, and kept nowhere else. Nothing that a server says is
repeated before the key has been taken out of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ...errors import ScorerError, require


logger = logging.getLogger(__name__)

DEFAULT_URL = "https://api.openai.com/v1"
DEFAULT_KEY_ENV = "OPENAI_API_KEY"

_NO_KEY = "none"  # a client wants one, a server of one's own does not look at it
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NO_ACCESS, _NO_CREDIT, _NOT_FOUND = (401, 403), 402, 404


@dataclass(frozen=True)
class Endpoint:
    """
    An OpenAI-compatible server.

    Args:
        base_url (`str`): Without user, password, query and fragment.
        api_key_env (`str`, *optional*): The environment variable that holds the key, if one is sent.
        timeout (`float`): Seconds for one attempt.
        max_retries (`int`): Further attempts, with backoff, after 408, 409, 429, 5xx, timeouts and lost connections.
    """

    base_url: str
    api_key_env: str | None
    timeout: float
    max_retries: int

    @property
    def host(self) -> str:
        """Host and port, `127.0.0.1:8000`."""
        return urlsplit(self.base_url).netloc.lower()

    def client(self) -> Any:
        """A new `openai.AsyncOpenAI`, for the event loop that it is made in."""
        openai = require("openai", extra="server", purpose="scoring by a server")
        return openai.AsyncOpenAI(
            api_key=self._key() or _NO_KEY,
            base_url=self.base_url,
            timeout=self.timeout,
            max_retries=self.max_retries,
            http_client=_bounded(openai.DefaultAsyncHttpxClient, 1.5 * self.timeout),
        )

    def _key(self) -> str | None:
        return read_key(self.api_key_env) if self.api_key_env else None

    # ---- what a server says

    def said(self, error: Exception) -> str:
        """A server's own words about a refusal: one line, not too long, without the key."""
        body = getattr(error, "body", None)
        found = body if isinstance(body, str) else ""
        if isinstance(body, dict):
            inner = body.get("error")
            source = inner if isinstance(inner, dict) else body
            words = (source.get("message"), source.get("detail"), inner)
            found = next((str(word) for word in words if word), "")
        key = self._key()
        text = found.replace(key, "***") if key else found
        text = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
        return text if len(text) <= 200 else text[:199] + "…"

    def stopped_by(self, status: int, model: str, said: str, offers: str = "") -> ScorerError | None:
        """The error for an answer after which no further request has any use; `None` for every other answer."""
        words = f" It says: {said}" if said else ""
        if status in _NO_ACCESS:  # a server's words about a key may show parts of it
            words = words if status != 401 else ""
            if not self.api_key_env:
                return ScorerError(
                    f"{self.host} wants a key ({status}), and none was sent. Put it into the environment variable "
                    f"{DEFAULT_KEY_ENV}, or name another by api_key_env=....{words}"
                )
            return ScorerError(
                f"{self.host} refuses access ({status}) with the key in the environment variable {self.api_key_env}. "
                f"Put a key there that this server and the model {model!r} take.{words}"
            )
        if status == _NO_CREDIT:
            return ScorerError(f"{self.host} wants payment (402) before it answers.{words}")
        if status == _NOT_FOUND:
            has = f"it offers {offers}" if offers else "a base_url normally ends in /v1"
            return ScorerError(f"{self.host} knows no model {model!r}, or no chat completions (404); {has}.{words}")
        return None


def make_endpoint(base_url: str | None, api_key_env: str | None, timeout: float, max_retries: int) -> Endpoint:
    """
    The [`Endpoint`] that a user describes.

    Raises:
        [`ScorerError`]: The address is not one, or holds credentials; the key is missing or cannot be one; a number is
            out of range.
    """
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool) or not 0 < timeout < float("inf"):
        raise ScorerError(f"timeout {timeout!r} is not valid; valid: seconds, more than 0")
    if not isinstance(max_retries, int) or isinstance(max_retries, bool) or max_retries < 0:
        raise ScorerError(f"max_retries {max_retries!r} is not a whole number of at least 0")
    given = base_url or os.environ.get("OPENAI_BASE_URL", "").strip()
    url = _checked_url(given) if given else DEFAULT_URL
    if api_key_env:
        _check_name(api_key_env)
        if read_key(api_key_env) is None:
            if api_key_env != DEFAULT_KEY_ENV:
                raise ScorerError(f"no key: the environment variable {_shown_name(api_key_env)} is not set")
            if not given:
                raise ScorerError(
                    f"no key for {DEFAULT_URL}: the environment variable {api_key_env} is not set. Set it, or name a "
                    "server of yours by base_url=..., e.g. http://127.0.0.1:8000/v1"
                )
            api_key_env = None
    parts = urlsplit(url)
    if api_key_env and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        logger.warning("the key in %s goes to %s unencrypted (http)", api_key_env, parts.netloc)
    return Endpoint(url, api_key_env or None, float(timeout), max_retries)


def _checked_url(url: str) -> str:
    remedy = "valid: e.g. http://127.0.0.1:8000/v1"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ScorerError(f"base_url is not an address of a server; {remedy}") from None
    if "@" in url or parts.query or parts.fragment:  # may be secrets, so they are not repeated
        raise ScorerError(
            "base_url holds a user, password, query or fragment (not shown here). Leave them out; a key goes into an "
            f"environment variable, whose name api_key_env=... gives. {remedy}"
        )
    if parts.scheme not in ("http", "https") or not host or not url.isprintable() or " " in url:
        raise ScorerError(f"base_url {url!r} is not an address of a server; {remedy}")
    return url


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise ScorerError(
            "api_key_env is not the name of an environment variable (not shown here: it may be the key itself); give "
            f"the name alone, e.g. {DEFAULT_KEY_ENV}, and the key as that variable's value"
        )


def _shown_name(name: str) -> str:
    """A variable's name, unless it looks as if it were the key itself."""
    usual = re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", name)
    return name if usual else "that api_key_env names (not shown here: it may be the key itself)"


def read_key(name: str) -> str | None:
    """The key in an environment variable, `None` where there is none."""
    key = os.environ.get(name, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ScorerError(f"the environment variable {name} holds something that is no key: it is not one plain word")
    return key or None


def _bounded(base: type, seconds: float) -> Any:
    """An HTTP client whose attempts end after so many seconds even where an answer drips in byte by byte."""

    class Client(base):
        async def send(self, *args: Any, **options: Any) -> Any:
            async with asyncio.timeout(seconds):
                return await super().send(*args, **options)

    return Client()


def reason_of(error: Exception) -> str:
    """Which of [`~ee_trl.data.dialogue.REASONS`] a failed request is, after the client's own retries."""
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
