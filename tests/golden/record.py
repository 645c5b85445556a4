"""Records golden sessions: `python -m tests.golden.record [NAME ...]`, all of them or those that are named.

Run it to add a session to `plans.py` (name it, and the others stay as they are), or after an intended change of what
producers write. A file of an older version is worth keeping: every later version must read it. So add a session rather
than record one again, and give the reason in the commit. Times and ids differ each time.

Each session is run by real processes: an aggregator, a producer a member, llama.cpp's own servers over HTTP, a private
Redis. The stream is copied when the session has ended, and kept where the core alone, over that copy, reproduces every
committed frame. It takes a minute or two, some gigabytes of temporary files, and a machine with nothing else to do: the
pace of the tokens is the models' own. Those with a real model need its file in the council's cache folder.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import msgspec

from aggregator.core.replay import replayed
from bench.gguf_model import gguf_model
from bench.llama_server import LlamaProcess, llama_process
from schemas.entries import decode_opening
from schemas.rules.what_if import BranchStart, WholeAnswers, branch_of
from schemas.sessions import ENTRY_VERSION, Member, Opening
from tests.golden import Golden, golden, keep
from tests.golden.plans import PLANS, Plan, Served
from tests.support.llama.files import smollm2_path
from tests.support.redis_servers import RedisServer, redis_binaries
from tests.support.role_processes import Roles, roles_on
from tests.support.sessions import check_the_law, token_stream, until_ended
from tests.support.waiting import until
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session, new_session_id, open_session


def main() -> None:
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PLANS)} (default: all)")
    names = parser.parse_args().names or list(PLANS)
    if unknown := sorted({*names} - {*PLANS}):
        parser.error(f"There is no plan {', '.join(unknown)}: the plans are {', '.join(PLANS)}.")
    with tempfile.TemporaryDirectory(prefix="council-golden-") as folder:
        for name in names:
            path = keep(name, recorded(PLANS[name], Path(folder)))
            sys.stdout.write(f"{path.name}: {path.stat().st_size:,} bytes\n")


def recorded(plan: Plan, folder: Path) -> Golden:
    """The session that the plan describes, run once. Models are built in `folder`."""
    redis = RedisServer(next(iter(redis_binaries().values())))
    try:
        with ExitStack() as stack:
            roles = stack.enter_context(roles_on(redis.url))
            servers = serve(plan, folder, roles, stack)
            entries = asyncio.run(_stream_of(plan, redis.url, servers))
    finally:
        redis.close()
    members = {name: part.served.described() for name, part in plan.parts.items()}
    return Golden(plan.about, f"llama.cpp of xllamacpp {version('xllamacpp')}", members, entries)


def serve(plan: Plan, folder: Path, roles: Roles, stack: ExitStack) -> dict[str, LlamaProcess]:
    """Starts aggregator, servers and producers; each member's server, where it has one."""
    roles.ready("aggregator")
    running: dict[Served, LlamaProcess] = {}
    servers: dict[str, LlamaProcess] = {}
    for name, part in plan.parts.items():
        served = part.served
        if served.ngram:
            roles.ready("producers", name)
            continue
        path = smollm2_path() if served.real else gguf_model(folder, **served.parameters)  # type: ignore[arg-type]
        if served.in_process:
            roles.ready("producers", name, "--path", str(path), "--warm")
            continue
        if served not in running:
            running[served] = stack.enter_context(llama_process(path, drafts=served.drafts))
        servers[name] = running[served]
        roles.ready("producers", name, "--backend", servers[name].url)
    return servers


async def _stream_of(plan: Plan, url: str, servers: dict[str, LlamaProcess]) -> list[tuple[str, bytes]]:
    """The token stream of one session, when it has ended."""
    members = tuple(
        Member(name, part.weight, sampling=msgspec.structs.replace(plan.sampling, **part.sampling), system=part.system)
        for name, part in plan.parts.items()
    )
    start = _start_of(plan)
    opening = Opening(
        version=ENTRY_VERSION,
        session=new_session_id(),
        prompt=plan.prompt,
        members=members,
        system=plan.system,
        sampling=plan.sampling,
        weighting=plan.weighting,
        sync=plan.sync,
        prefix=start.prefix if start else "",
        parent=start.parent if start else None,
        mixture=plan.mixture,
    )
    pipe = AsyncPipe(url)
    try:
        # One before it, of a token each: then every model is loaded, and all begin together.
        rehearsal = msgspec.structs.replace(
            opening,
            session=new_session_id(),
            members=tuple(Member(name) for name in plan.parts),
            sync="step",
            prefix="",
            parent=None,
            mixture=0,
            sampling=msgspec.structs.replace(plan.sampling, max_tokens=1),
        )
        await open_session(pipe, rehearsal)
        await until_ended(pipe, rehearsal.session)
        await open_session(pipe, opening)
        if plan.killed:
            await kill_when_begun(plan, pipe, opening, servers)
        await until_ended(pipe, opening.session)
        await check_the_law(pipe, opening.session)
        return await token_stream(pipe, opening.session)
    finally:
        await pipe.close()


def _start_of(plan: Plan) -> BranchStart | None:
    """Where a what-if branch begins."""
    if plan.change is None:
        return None
    parent = golden(plan.branch_of).entries
    opening = decode_opening(parent[0][1])
    agreed = "".join(closed.frame.consensus.agreed or "" for closed in replayed(parent))
    return branch_of(WholeAnswers(opening, [agreed] * len(opening.members), ended=True), plan.change)


async def kill_when_begun(plan: Plan, pipe: AsyncPipe, opening: Opening, servers: dict[str, LlamaProcess]) -> None:
    """Kills the server of the member `killed` when it has written a third of its tokens."""
    number = list(plan.parts).index(plan.killed)

    async def has_begun() -> bool:
        state = await find_session(pipe, opening.session)
        return bool(state.progress) and state.progress[number].next_seq >= plan.sampling.max_tokens // 3

    await until(has_begun, f"{plan.killed} has begun")
    servers[plan.killed].process.kill()


if __name__ == "__main__":
    main()
