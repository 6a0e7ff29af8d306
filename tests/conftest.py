"""Shared by all tests: no network, real data by $EE_TRL_DATA alone, a scorer whose numbers can be told in advance."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest


if "PYTEST_XDIST_WORKER" in os.environ:  # several test processes: one thread each, before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
os.environ["EE_TRL_DEMO_MODEL"] = "tiny"  # a chat model takes minutes; tests/test_real_model.py has it
# What the tests and their processes leave behind lies in one folder, which goes at the end; pytest keeps its own.
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="ee-trl-")  # short: sockets' paths end at 107
os.chmod(tempfile.tempdir, 0o1777)  # as the system's: some tests give up their rights
atexit.register(shutil.rmtree, tempfile.tempdir, ignore_errors=True)
os.environ["HF_DATASETS_CACHE"] = str(Path(tempfile.tempdir, "datasets"))  # before `datasets` is imported

ROOT = Path(__file__).parents[1]


def pytest_collection_finish() -> None:
    """The libraries are loaded: the collections of garbage that trainers ask for need not go through them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections to anything but this machine fail at once."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else None
        if host is not None and host not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"tests run without a network; something asked for {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each test has a score store of its own."""
    monkeypatch.setenv("EE_TRL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model that trains in a second."""
    from ee_trl import build_tiny_causal_lm

    return build_tiny_causal_lm(tmp_path_factory.mktemp("model"), hidden_size=32, num_hidden_layers=2)


@pytest.fixture(scope="session")
def _sample_s_scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ee_trl import EmpathyDataSelector, load_sample

    folder = tmp_path_factory.getbasetemp()
    store = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "sample.sqlite"
    EmpathyDataSelector(store=store).score(load_sample())  # processes that ask at the same time share the work
    return store


@pytest.fixture
def sample_is_scored(_own_cache: None, _sample_s_scores: Path) -> None:
    """The test's score store has the default scorer's scores of the embedded sample, which take ten seconds."""
    ours = Path(os.environ["EE_TRL_CACHE"], "scores.sqlite")
    with closing(sqlite3.connect(_sample_s_scores)) as made, closing(sqlite3.connect(ours)) as copy:
        made.backup(copy)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training with a policy draws no picture at its end, which takes longer than a small training."""
    monkeypatch.setattr("ee_trl.reports.draws.draw_draws", lambda *args: None)


@pytest.fixture
def no_server_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names no server, no key and no proxy."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data."""
    folder = os.environ.get("EE_TRL_DATA")
    if not folder:
        pytest.skip("needs real data: $EE_TRL_DATA is not set")
    return Path(folder)


class WordScorer:
    """Sensibility: words in the reply; rationality: question marks, times five. Counts what it was asked."""

    fingerprint = "words-1"

    def __init__(self) -> None:
        self.asked = 0

    def score(self, dialogues: Sequence) -> np.ndarray:
        self.asked += len(dialogues)
        rows = [[min(10, len(d.response.split())), min(10, 5 * d.response.count("?"))] for d in dialogues]
        return np.array(rows, dtype=float)


@pytest.fixture
def word_scorer() -> WordScorer:
    return WordScorer()
