"""llama.cpp's own server in a process of its own: it speaks real HTTP, and can be killed.

with llama_server(path_of_a_gguf) as base_url: ...
python -m bench.llama_server GGUF --port 8080          serves until its standard input ends
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

_START_S = 30.0
_STOP_S = 5.0
_POLL_S = 0.02


@dataclass(frozen=True)
class LlamaProcess:
    """A running server: its base URL and its process, which may be killed."""

    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def llama_server(
    gguf_path: Path, *, slots: int = 2, context: int = 2048, seed: int = 0, threads: int = 1, drafts: bool = False
) -> Iterator[str]:
    """The base URL of a server for the model, with `slots` requests at once of `context` tokens each.

    `seed` is for requests without one. A server that `drafts` guesses several tokens from its own context and then only
    checks them.
    """
    with llama_process(gguf_path, slots=slots, context=context, seed=seed, threads=threads, drafts=drafts) as running:
        yield running.url


@contextmanager
def llama_process(
    gguf_path: Path, *, slots: int = 2, context: int = 2048, seed: int = 0, threads: int = 1, drafts: bool = False
) -> Iterator[LlamaProcess]:
    """As llama_server, with its process. It ends with the context, and also when this process is killed."""
    options = {"--port": 0, "--slots": slots, "--context": context, "--seed": seed, "--threads": threads}
    command = [sys.executable, str(Path(__file__).resolve()), str(gguf_path)]
    command += [str(word) for option in options.items() for word in option] + ["--drafts"] * drafts
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "output")
        with path.open("wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield LlamaProcess(_url_when_healthy(process, path), process)
        finally:
            process.kill()
            process.communicate(timeout=_STOP_S)


def _url_when_healthy(process: subprocess.Popen[bytes], output: Path) -> str:
    """The base URL in the server's output, once it is healthy. Raises TimeoutError with the end of the output."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        for url in (line for line in output.read_text(errors="replace").splitlines() if line.startswith("http://")):
            if _is_healthy(url):
                return url
        time.sleep(_POLL_S)
    state = "is not healthy yet" if process.poll() is None else f"exited with status {process.returncode}"
    raise TimeoutError(f"the llama.cpp server {state}; its output:\n{output.read_text(errors='replace')[-2_000:]}")


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
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--context", type=int, default=2048, help="tokens of each slot")
    parser.add_argument("--seed", type=int, default=0)
    # One thread: on small machines two threads spin and wait for each other.
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--drafts", action="store_true", help="speculative decoding from the context's own n-grams")
    arguments = parser.parse_args()

    import xllamacpp  # slow to load, and not needed in a process that only starts this one

    params = xllamacpp.CommonParams()
    params.model.path = str(arguments.gguf)
    params.port = arguments.port
    params.n_parallel = arguments.slots
    params.n_ctx = arguments.slots * arguments.context
    params.sampling.seed = arguments.seed
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = arguments.threads
    params.n_threads_http = arguments.slots + 2
    params.fit_params = params.ui = params.warmup = False
    # No prompt cache: a request's answer must not depend on those before it.
    params.cache_prompt, params.cache_ram_mib = False, 0
    params.verbosity = 1
    if arguments.drafts:
        params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
        # After two tokens that the context contains, the tokens that followed them there are drafted.
        params.speculative.ngram_simple.size_n, params.speculative.ngram_simple.size_m = 2, 8
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()  # ends when the process that started this one ends, also when it is killed


if __name__ == "__main__":
    main()
