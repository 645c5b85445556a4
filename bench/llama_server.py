"""llama.cpp's own server in a process of its own, so that it can be killed and really speaks HTTP.

with llama_server(path_of_a_gguf) as base_url: ...
python -m bench.llama_server GGUF --port 8080          until its standard input ends
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0
POLL_S = 0.02


@dataclass(frozen=True)
class LlamaProcess:
    """A running server: `url` is where it answers, `process` what a test may kill."""

    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def llama_server(
    gguf_path: Path, *, slots: int = 2, context: int = 2048, seed: int = 0, threads: int = 1, drafts: bool = False
) -> Iterator[str]:
    """The base URL of a server for the model: `slots` requests at once, each with `context` tokens.

    `seed` is for requests that name none. A server that `drafts` guesses several tokens ahead from its own context and
    then only checks them.
    """
    with llama_process(gguf_path, slots=slots, context=context, seed=seed, threads=threads, drafts=drafts) as running:
        yield running.url


@contextmanager
def llama_process(
    gguf_path: Path, *, slots: int = 2, context: int = 2048, seed: int = 0, threads: int = 1, drafts: bool = False
) -> Iterator[LlamaProcess]:
    """The same, process in hand. It ends with the context, and with this process, however that ends."""
    options = {"--port": 0, "--slots": slots, "--context": context, "--seed": seed, "--threads": threads}
    command = [sys.executable, str(Path(__file__).resolve()), str(gguf_path)]
    command += [str(word) for option in options.items() for word in option] + ["--drafts"] * drafts
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder, "output")
        with said.open("wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield LlamaProcess(_url_when_healthy(process, said), process)
        finally:
            process.kill()
            process.communicate(timeout=STOP_TIMEOUT_S)


def _url_when_healthy(process: subprocess.Popen[bytes], said: Path) -> str:
    """Where the server says it listens, once it is well. Raises TimeoutError with what it said instead."""
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until and process.poll() is None:
        for url in (line for line in said.read_text(errors="replace").splitlines() if line.startswith("http://")):
            if _is_healthy(url):
                return url
        time.sleep(POLL_S)
    state = "is not healthy yet" if process.poll() is None else f"exited with status {process.returncode}"
    raise TimeoutError(f"the llama.cpp server {state}; it said:\n{said.read_text(errors='replace')[-2_000:]}")


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/health", timeout=2.0) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def main() -> None:
    """Serves a model on the loopback interface. The first line printed is the base URL."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--context", type=int, default=2048, help="tokens a slot")
    parser.add_argument("--seed", type=int, default=0)
    # One thread a model: on small machines two spin against each other.
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--drafts", action="store_true", help="speculative decoding, from the context's own n-grams")
    asked = parser.parse_args()

    import xllamacpp  # not needed by those who only start this process, and slow to load

    params = xllamacpp.CommonParams()
    params.model.path = str(asked.gguf)
    params.port = asked.port
    params.n_parallel = asked.slots
    params.n_ctx = asked.slots * asked.context
    params.sampling.seed = asked.seed
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = asked.threads
    params.n_threads_http = asked.slots + 2
    params.fit_params = params.ui = params.warmup = False
    # No prompt cache: a request's answer must not depend on those before it.
    params.cache_prompt, params.cache_ram_mib = False, 0
    params.verbosity = 1
    if asked.drafts:
        params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
        # Two tokens that were written before are followed by the same ones again.
        params.speculative.ngram_simple.size_n, params.speculative.ngram_simple.size_m = 2, 8
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()  # ends when whoever started this process does, also if that is killed


if __name__ == "__main__":
    main()
