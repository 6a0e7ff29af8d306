"""The trial of vLLM, rehearsed: against a test server, and with a program in vLLM's place."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_moe as tiny
from conftest import ROOT
from fake_server import Reply, completion, conforming, serving

from ee_trl import build_tiny_causal_lm


pytestmark = [pytest.mark.filterwarnings("ignore")]

IN_ITS_PLACE = f"""#!{sys.executable}
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message = {{"role": "assistant", "content": "Oh."}}
        body = {{"choices": [{{"index": 0, "finish_reason": "stop", "message": message}}], "model": asked["model"],
                "object": "chat.completion", "id": "1", "created": 1}}
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

with open(os.environ["SAID"], "w") as file:
    json.dump([sys.argv[1:], os.getcwd()], file)
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("given")
    base = build_tiny_causal_lm(root / "base", hidden_size=32, num_hidden_layers=1)
    experts = [f"{n}={tiny.build_lora(base, root / n, i, r=2)}" for i, n in enumerate(tiny.EXPERTS)]
    return ["--base", str(base), "--experts", *experts, "--work", str(root / "work"), "--prompts", "4"]


def answering(request: dict[str, Any], before: int) -> Reply:
    """As a judge where it is asked to rate, else with one reply that names the model."""
    if "\nListener: " in request["messages"][-1]["content"]:
        return conforming(request, before)
    return Reply(completion(f"I am {request['model']}."))


def main(*args: str) -> None:
    from vllm_serving import main

    main(args)


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_a_running_server_is_asked_for_each_part(given: list[str], tmp_path: Path, capsys: Any) -> None:
    with serving(answering) as server:
        main(*given, "--judge", "tiny", "--url", server.base_url, "--samples", "6", "--parts", "judge", "--no-local")
        main(
            *given, "--url", server.base_url, "--parts", "mixture", "experts", "--max-tokens", "4",
            "--json", str(tmp_path / "found.json"),
        )  # fmt: skip
    shown = capsys.readouterr().out
    assert "/logprobs:20" in shown
    assert "experts differ on the first prompt" in shown
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["mixture"]["replies"] == found["experts"]["replies"] == 4
    assert found["mixture"]["equal to transformers'"] == 0
    assert found["experts"]["routed to sensibility"] + found["experts"]["routed to rationality"] == 4
    assert found["experts"]["experts differ on the first prompt"] is True
    assert {*tiny.EXPERTS} < {request["model"] for request in server.asked}


def test_it_starts_vllm_waits_for_it_and_stops_it(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    program, said = tmp_path / "bin" / "vllm", tmp_path / "said.json"
    program.parent.mkdir()
    program.write_text(IN_ITS_PLACE)
    program.chmod(0o755)
    monkeypatch.setenv("SAID", str(said))
    main(*given, "--vllm", str(program), "--parts", "experts", "--no-local", "--vllm-args", "--seed 1")
    argv, folder = json.loads(said.read_text())
    assert argv[0] == "serve"
    assert argv[2:5] == ["--enable-lora", "--max-loras", "2"]
    assert argv[-2:] == ["--seed", "1"]
    assert {"serving.json", "adapters"} <= set(os.listdir(folder))
    port = argv[argv.index("--port") + 1]
    assert f"--port {port}" in capsys.readouterr().out
    program.write_text(f"#!{sys.executable}\nraise SystemExit(7)\n")
    with pytest.raises(SystemExit, match="exit status: 7"):
        main(*given, "--vllm", str(program), "--parts", "mixture")
    with pytest.raises(SystemExit, match="There is no program.*pip install vllm"):
        main(*given, "--vllm", str(tmp_path / "none"))
