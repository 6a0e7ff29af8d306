"""A server's key shows up nowhere, and its options are strict."""

from __future__ import annotations

import base64
import logging
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fake_server import Reply, completion, conforming, reply_of, serving
from served_judge import AT_ONCE, KEY, RUBRIC, numbered, reasons_of, said, scorer_of, status

from ee_trl import ServerScorer, load_sample, load_scorer
from ee_trl.cli.main import main
from ee_trl.errors import MissingExtraError, ScorerError
from ee_trl.scoring.judge.endpoint import Endpoint


pytestmark = pytest.mark.usefixtures("no_server_named")


def leaking(request: dict[str, Any], before: int) -> Reply:
    """Says the key back wherever it can."""
    leak = {"error": {"message": f"Bearer {KEY} is no good"}, "detail": KEY}
    match reply_of(request).rsplit(" ", 1)[-1]:
        case "refused":
            return Reply(leak, 400, {"X-Key": "none"})
        case "fails":
            return Reply(leak, 500, AT_ONCE)
        case "chatty":
            return Reply(completion("What a lovely dialogue!"))
    return conforming(request)


def test_the_key_is_sent_and_shows_up_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", f"{KEY}\n")
    for name in ("", "ee_trl", "openai", "httpx2", "httpcore2"):
        caplog.set_level(logging.DEBUG, name)
    load_sample().select(range(3)).to_parquet(tmp_path / "in.parquet")
    with serving(leaking) as server:
        scorer = scorer_of(server, api_key_env="MY_KEY", max_retries=1)
        _, reasons = reasons_of(scorer, said("it is refused", "it is fails", "it is chatty", "fine"))
        assert reasons == ["server_refused", "server_unavailable", "answer_not_in_form", None]
        command = ["score", str(tmp_path / "in.parquet"), "-o", str(tmp_path / "out.parquet"), "--scorer", "server"]
        where = ["--model", "tiny", "--base-url", server.base_url, "--api-key-env", "MY_KEY"]
        assert main([*command, *where, "-q"]) == 0
        assert set(server.keys) == {f"Bearer {KEY}"}
    told = [caplog.text, repr(scorer), scorer.fingerprint, str(vars(scorer)), *capsys.readouterr()]
    files = [path.read_bytes().decode("latin-1") for path in tmp_path.iterdir()]
    assert "Bearer *** is no good" in caplog.text, "the server's words are told without the key"
    assert "openai._base_client" in caplog.text, "the client's own log is among what is looked at"
    assert not any(KEY in text for text in told + files)


def forms_of(key: str) -> dict[str, str]:
    """The key as a careless or hostile server may say it back."""
    coded = {n: base64.b64encode(f"{'x' * n}{key}".encode()).decode() for n in range(3)}
    return {
        "as it is": key,
        "upper case": key.upper(),
        "apart": " ".join(key),
        "in pieces": f"{key[:9]} and {key[9:]}",
        "between dashes": "-".join(key),
        "between invisible characters": "\u200b".join(key),
        "in wide letters": "".join(chr(ord(c) + 0xFEE0) for c in key),
        "backwards": key[::-1],
        "its end": key[-12:],
        "hexadecimal": key.encode().hex(),
        "in the address": "".join(f"%{byte:02X}" for byte in key.encode()),
        "in the address twice": quote(quote(key, safe=""), safe="").replace("-", "%252D"),
        "for a page": "".join(f"&#{ord(c)};" for c in key),
        "escaped": "".join(f"\\u{ord(c):04x}" for c in key),
        **{f"base64, {n} before": text for n, text in coded.items()},
        "base64 for addresses": base64.urlsafe_b64encode(key.encode()).decode().rstrip("="),
        "base64 apart": " ".join(coded[0]),
        "basic access": base64.b64encode(f"user:{key}".encode()).decode(),
    }


@pytest.mark.parametrize("form", forms_of(KEY))
def test_no_form_of_the_key_is_repeated(
    form: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    said = forms_of(KEY)[form]
    with serving(lambda r, b: Reply(completion(f"the key {said}", model=said)), models=(f"m {said}",)) as server:
        scorer = scorer_of(server, api_key_env="MY_KEY")
        told = [scorer.fingerprint, caplog.text]
    assert "rubric's form" in caplog.text
    with serving(status(404, said), models=(said, "other")) as server, pytest.raises(ScorerError) as error:
        scorer_of(server, api_key_env="MY_KEY").score(numbered(1))
    told.append(str(error.value))
    shown = "\n".join(told).replace(server.host, "")
    assert not any(text in shown for text in (said, KEY, KEY[-12:]))
    assert "not shown" in shown or "***" in shown
    assert scorer.endpoint.shown("maximum context length is 512 tokens") == "maximum context length is 512 tokens"


@pytest.mark.parametrize("key", ["EMPTY", "none", "x"])
def test_a_short_stand_in_for_a_key_hides_no_words(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    words = "messages must not be empty, noon"
    assert Endpoint("http://127.0.0.1:1/v1", "OPENAI_API_KEY", 1, 0).shown(words) == words


@pytest.mark.parametrize("code", [301, 302, 307, 308])
@pytest.mark.parametrize("after", [0, 4], ids=["at once", "in the middle"])
def test_a_redirect_takes_no_dialogue_to_another_host(code: int, after: int) -> None:
    count = iter(range(100))
    with serving(conforming) as other:
        away = Reply(b"", code, {"Location": f"{other.base_url}/chat/completions"})
        why = f"redirects requests .{code}. to 'http.*{other.host}.*base_url"
        with (
            serving(lambda r, b: conforming(r) if next(count) < after else away) as server,
            pytest.raises(ScorerError, match=why),
        ):
            scorer_of(server).score(numbered(10))
        assert not other.asked


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"base_url": None}, "OPENAI_API_KEY is not set.*base_url"),
        ({"base_url": "http://me:pa55word@localhost/v1"}, "holds a user, password"),
        ({"base_url": "https://host/v1?key=pa55word"}, "holds a user, password, query"),
        ({"base_url": "https://host/v1#pa55word"}, "fragment"),
        ({"base_url": "localhost:8000/v1"}, "is not an address"),
        ({"base_url": "ftp://localhost"}, "is not an address"),
        ({"base_url": "http://localhost:pa55word/v1"}, "is not an address"),
        ({"api_key_env": "sk-pa55word"}, "not the name of an environment variable"),
        ({"api_key_env": "hf_pa55word"}, "not set"),
        ({"api_key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY is not set"),
        ({"api_key_env": "ODD_KEY"}, "ODD_KEY holds something that is no key"),
        ({"logprobs": "yes"}, "valid: auto, True, False"),
        ({"concurrency": 0}, "concurrency 0"),
        ({"concurrency": True}, "concurrency True"),
        ({"timeout": 0}, "timeout 0"),
        ({"timeout": "9"}, "timeout '9'"),
        ({"max_retries": -1}, "max_retries -1"),
        ({"max_tokens": 0}, "max_tokens 0"),
        ({"model": ""}, "model ''"),
        ({"model": "a\nb"}, "one line"),
        ({"name": "a\nb"}, "one line"),
        ({"extra_body": "[1]"}, "extra_body is not a JSON object"),
        ({"extra_body": "{"}, "extra_body is not a JSON object"),
        ({"extra_body": {"a": {1, 2}}}, "extra_body is not a JSON object"),
        ({"rubric": "no-such-file.txt"}, "no rubric"),
    ],
)
def test_wrong_options_are_refused_without_repeating_secrets(
    options: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODD_KEY", "two words pa55word")
    with pytest.raises(ScorerError, match=why) as error:
        ServerScorer(**{"model": "tiny", "base_url": "http://127.0.0.1:1/v1", **options})
    assert "pa55word" not in str(error.value)
    assert error.value.__cause__ is None


def test_where_the_server_is_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert ServerScorer("gpt").name == "api.openai.com"
    with serving(conforming) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        scorer = ServerScorer("tiny", rubric=RUBRIC)
        assert scorer.name == server.host
        scorer.score(numbered(1))
        assert set(server.keys) == {f"Bearer {KEY}"}
        assert "unencrypted" not in caplog.text
        ServerScorer("tiny", base_url=server.base_url, api_key_env=None, rubric=RUBRIC).score(numbered(1))
        assert server.keys[-1] == "Bearer none"
    ServerScorer("tiny", base_url="http://judge.example:80/v1")
    assert "unencrypted" in caplog.text


def test_without_the_client_the_pip_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ee-trl\[server\]'"):
        load_scorer("server", model="tiny", base_url="http://127.0.0.1:1/v1")


def test_it_is_loaded_by_name() -> None:
    with serving(conforming) as server:
        scorer = load_scorer("server", model="tiny", base_url=server.base_url, rubric=RUBRIC)
        assert isinstance(scorer, ServerScorer)
        assert scorer.score([]).shape == (0, 2)
        assert not server.asked
    with pytest.raises(ScorerError, match="needs the name of the model"):
        load_scorer("server", base_url=server.base_url)
    with pytest.raises(ScorerError, match="Did you mean 'base_url'"):
        load_scorer("server", model="tiny", bas_url="x")
    with pytest.raises(ScorerError, match="unknown option of a judge 'model'"):
        load_scorer("some/judge", model="tiny")
