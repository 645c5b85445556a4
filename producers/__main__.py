"""`python -m producers MODEL [--backend URL]`: serves one model to the sessions on REDIS_URL.

An n-gram model (ngram:word-3, ...) runs in this process; any other is asked for at an OpenAI-compatible server. Start
the same model twice to serve more sessions at once.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

from producers.backends import backend_for
from producers.process import ProducerProcess
from transport.process import Standing, end_with_supervisor, log_to_stderr, redis_of_role, run_role


async def serve(arguments: argparse.Namespace) -> None:
    """Serves until SIGTERM or SIGINT. Raises Refused."""
    url = redis_of_role()
    backend = backend_for(arguments.model, arguments.backend, arguments.tokens_per_s)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_signal_handler(signal.SIGINT, stopping.set)
    end_with_supervisor()
    standing = Standing("producer", model=arguments.model)
    log = log_to_stderr("producer").bind(model=arguments.model)
    await ProducerProcess(url, arguments.model, backend, standing, log, stopping).run()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m producers", description=__doc__)
    parser.add_argument("model", help="the model's name, as the council and its server know it")
    parser.add_argument("--backend", metavar="URL", help="an OpenAI-compatible server, such as http://127.0.0.1:8080")
    parser.add_argument(
        "--tokens-per-s", type=float, metavar="N", help="the pace of an n-gram model (default: a human one)"
    )
    return run_role(serve(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
