"""`python -m producers MODEL [--backend URL] [...]`: serves one model to the sessions on REDIS_URL.

An n-gram model (ngram:word-3, ...) or a GGUF file (gguf:PATH) runs in this process; all others run on a model server.
Start the same model twice to serve more sessions at once.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from producers.backends import backend_for
from producers.process import ProducerProcess
from producers.source import ModelSource, ProducerOrder, gguf_source, ordered
from runtime.check import add_check
from runtime.environment import checked_drain, drain_from_environment, redis_from_environment, tier_from_environment
from runtime.log import log_to_stderr
from runtime.role import RoleParser, run_role, stop_events
from schemas.errors import Refused
from schemas.models import ModelFacts
from schemas.rules.choice import check_remote_tier
from transport.register import ProcessRegistration


def order_of(arguments: argparse.Namespace) -> ProducerOrder:
    """What a person's flags order. Raises Refused."""
    model, source = _source_of(arguments)
    order = ProducerOrder(model, source, arguments.warm, arguments.tokens_per_s)
    if source.remote:
        check_remote_tier(ModelFacts(model, "its server"), tier_from_environment(), allowed=arguments.allow_remote)
    return order


def _source_of(arguments: argparse.Namespace) -> tuple[str, ModelSource]:
    """(the model's name in the council, where it comes from)."""
    model: str = arguments.model
    if model.startswith("ngram:"):
        return model, ModelSource("ngram", model)
    if model.startswith("gguf:") or arguments.path:
        name, source = gguf_source(arguments.path or model.removeprefix("gguf:"), arguments.parallel, arguments.threads)
        return (model if arguments.path else name), source
    from producers.servers.address import is_remote  # the n-gram models need no HTTP client

    if not arguments.backend:
        raise Refused(
            "no_backend", f"{model!r} is not an n-gram model: name its server with --backend http://HOST:PORT."
        )
    source = ModelSource(
        arguments.api,
        arguments.name or model,
        arguments.backend,
        key_env=arguments.key_env,
        remote=is_remote(arguments.backend) if arguments.remote is None else arguments.remote,
        parallel=arguments.parallel,
        max_loaded=arguments.max_loaded,
        keep_alive_s=arguments.keep_alive_s,
        allow_council=arguments.allow_council,
    )
    return model, source


async def serve(given: ProducerOrder | argparse.Namespace) -> None:
    """Serves until SIGTERM or SIGINT, and finishes its answers. Raises Refused."""
    order = order_of(given) if isinstance(given, argparse.Namespace) else given
    drain = given.drain_s if isinstance(given, argparse.Namespace) else None
    drain_s = drain_from_environment() if drain is None else checked_drain(drain)
    url, tier, stop = redis_from_environment(), tier_from_environment(), stop_events()
    registration = ProcessRegistration("producer", model=order.model)
    backend = backend_for(order.model, order.source, order.tokens_per_s, registration.name)
    log = log_to_stderr("producer").bind(model=order.model)
    process = ProducerProcess(
        url, order.model, order.source, backend, tier, registration, log, stop, drain_s=drain_s,
        is_warmed=order.is_warmed,
    )  # fmt: skip
    await process.run()


def argument_parser() -> RoleParser:
    parser = RoleParser(prog="python -m producers", description=__doc__)
    parser.add_argument("model", help="the model's name, as the council knows it; gguf:PATH for a file")
    parser.add_argument("--backend", metavar="URL", help="its server, such as http://127.0.0.1:8080")
    parser.add_argument("--api", choices=["openai", "ollama"], default="openai", help="the API of that server")
    parser.add_argument("--name", help="the server's name of the model, where it is another one")
    parser.add_argument("--path", type=Path, help="a GGUF file, for a model of any name")
    parser.add_argument("--key-env", default="", metavar="VARIABLE", help="the environment variable with the API key")
    parser.add_argument(
        "--remote",
        action=argparse.BooleanOptionalAction,
        help="whether the server is outside this machine and its network (default: by its address)",
    )
    parser.add_argument("--allow-remote", action="store_true", help="prompts may be sent there (hybrid tier)")
    parser.add_argument("--allow-council", action="store_true", help="the server may be another council")
    parser.add_argument("--parallel", type=int, default=0, metavar="N", help="requests at once (default: the server's)")
    parser.add_argument("--max-loaded", type=int, default=0, metavar="N", help="models that the server keeps loaded")
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="threads for a GGUF file (default: by the machine)"
    )
    parser.add_argument(
        "--keep-alive-s", type=int, default=600, metavar="S", help="how long Ollama keeps it loaded, idle"
    )
    parser.add_argument("--warm", action="store_true", help="load the model at the start")
    parser.add_argument("--drain-s", metavar="S", help="how long it finishes its answers after SIGTERM (default: 20)")
    parser.add_argument(
        "--tokens-per-s", type=float, metavar="N", help="the pace of an n-gram model (default: a readable one)"
    )
    add_check(parser, "producer")
    return parser


def main() -> int:
    arguments = sys.argv[1:]
    return run_role(serve(ordered(arguments) or argument_parser().parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
