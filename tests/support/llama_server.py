"""llama.cpp's server, by the pip package `xllamacpp`, in a process of its own and as long as a block runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


PROGRAM = """
import sys
import xllamacpp

params = xllamacpp.CommonParams()
params.model.path, params.port, params.n_ctx, params.n_parallel, params.warmup = sys.argv[1], 0, 2048, 1, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)  # returns when the model is loaded
print("READY", server.listening_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def llama_server(gguf: Path) -> Iterator[str]:
    """The server's address, for a GGUF file; it answers chat completions under any model name."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(gguf)], text=True, **pipes) as server:
        try:
            ready = next((line for line in server.stdout or () if line.startswith("READY ")), None)
            assert ready, f"the server of {gguf} stopped with status {server.wait()}"
            yield f"{ready.split()[1]}/v1"
        finally:
            server.kill()
