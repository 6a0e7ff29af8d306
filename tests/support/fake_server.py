"""An OpenAI-compatible server on loopback that answers, or misbehaves, as a test says; shared by several tests."""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ee_trl.scoring.judge.rubric import render_form


Alternatives = dict[str, float]  # token -> probability


@dataclass
class Reply:
    """What is sent: JSON or bytes, after a delay, whole, cut off in the middle, or dripping."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False
    drip: float = 0.0


Behaviour = Callable[[dict[str, Any], int], Reply]  # (request, how often the same was asked before) -> what to do


class FakeServer(ThreadingHTTPServer):
    """Counts what it is asked, and how much of it at a time."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, behaviour: Behaviour, models: tuple[str, ...] = ("tiny",)) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviour, self.models = behaviour, models
        self.lock = threading.Lock()
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.seen: Counter[str] = Counter()
        self.under_way = self.most_under_way = 0
        self.stop = threading.Event()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is none of its business."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeServer

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        known = self.path == "/v1/models"
        self._send(Reply({"data": [{"id": name} for name in self.server.models]}, 200 if known else 404))

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"]))
        request, server = json.loads(text), self.server
        if self.path != "/v1/chat/completions":
            return self._send(Reply({"detail": "Not Found"}, 404))
        with server.lock:
            before = server.seen[text.decode()]
            server.seen[text.decode()] += 1
            server.asked.append(request)
            server.keys.append(self.headers.get("Authorization"))
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        try:
            reply = server.behaviour(request, before)
            server.stop.wait(reply.delay)
        finally:
            with server.lock:
                server.under_way -= 1
        return self._send(reply)

    def _send(self, reply: Reply) -> None:
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if reply.drip:
            for i in range(len(body)):
                self.wfile.write(body[i : i + 1])
                self.wfile.flush()
                time.sleep(reply.drip)
        else:
            self.wfile.write(body[: len(body) // 2] if reply.cut else body)
        self.wfile.flush()
        self.close_connection = reply.cut


@contextmanager
def serving(behaviour: Behaviour, **options: Any) -> Iterator[FakeServer]:
    """Such a server while the block runs."""
    server = FakeServer(behaviour, **options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()


# ---- what a judge would answer -------------------------------------------------------------------------------------


def reply_of(request: dict[str, Any]) -> str:
    """The reply that a request asks to be rated."""
    return request["messages"][0]["content"].rsplit("\nListener: ", 1)[1].strip()


def by_words(reply: str) -> tuple[int, int]:
    """As the tests' `WordScorer` scores: words, and question marks times five."""
    return min(10, len(reply.split())), min(10, 5 * reply.count("?"))


def completion(text: Any, tokens: list[tuple[str, Alternatives]] | None = None, **more: Any) -> dict[str, Any]:
    """A chat completion; with `tokens` it has log probabilities."""
    logprobs = {"content": [listed(*token) for token in tokens]} if tokens is not None else None
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    return {"object": "chat.completion", "choices": [{**choice, "logprobs": logprobs}], "usage": usage, **more}


def listed(token: str, alternatives: Alternatives) -> dict[str, Any]:
    """One token as a server lists it."""

    def entry(text: str, chance: float) -> dict[str, Any]:
        return {"token": text, "logprob": math.log(chance), "bytes": list(text.encode())}

    others = alternatives or {token: 1.0}
    return {**entry(token, others[token]), "top_logprobs": [entry(*item) for item in others.items()]}


def certain(text: str) -> list[tuple[str, Alternatives]]:
    """A text in pieces as a tokenizer might cut it (numbers by digits), each with all of the probability but a bit."""
    pieces = re.findall(r" ?[A-Za-z]+|[0-9]|[^A-Za-z0-9]", text)
    return [(piece, {piece: 1 - 1e-9, "\x00": 1e-9}) for piece in pieces]


def conforming(request: dict[str, Any], before: int = 0) -> Reply:
    """Answers every request in the form, with log probabilities where they are asked for."""
    text = render_form(*by_words(reply_of(request)))
    return Reply(completion(text, certain(text) if request.get("logprobs") else None))


def text_only(request: dict[str, Any], before: int = 0) -> Reply:
    """The same by a server that knows no log probabilities and says nothing about it."""
    return conforming({**request, "logprobs": False})
