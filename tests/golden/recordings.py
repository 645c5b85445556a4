"""Makes golden recordings: `python -m tests.golden.recordings [NAME ...]`, all of them or those that are named.

    recordings/NAME.mcap     one session of real processes, as the council's own recorder wrote it

Every later version reads, verifies and replays them: a change of what travels that old recordings cannot follow fails
the tests. So add a recording rather than make one anew. Those of SmolLM2 need its file in the council's cache folder.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec

from consumers.recorder.session_recorder import record_session
from runtime.log import Log
from runtime.presence import RedisPresence
from schemas.sessions import ENTRY_VERSION, Member, Opening, Sampling
from tests.golden import FOLDER
from tests.golden.plans import PLANS, Part, Plan, Served
from tests.golden.record import kill_when_begun, serve
from tests.support.redis_servers import RedisServer, redis_binaries
from tests.support.role_processes import Role, Roles, roles_on
from tests.support.sessions import check_the_law, until_ended
from tests.support.waiting import until
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session, new_session_id, open_session

RECORDINGS = FOLDER / "recordings"
_REAL_FILE = Served(real=True, in_process=True)
_NGRAMS = ("ngram:word-3", "ngram:char-6")
_WITH_MODELS = {
    "real": Plan(
        "A real model as three members: at temperatures 0, 0.4 and 0.8.",
        {
            "gguf:cold": Part(_REAL_FILE, sampling={"temperature": 0.0}),
            "gguf:warm": Part(_REAL_FILE, sampling={"temperature": 0.4}),
            "gguf:hot": Part(_REAL_FILE, sampling={"temperature": 0.8}),
        },
        Sampling(max_tokens=30, temperature=0.0, seed=5),
    ),
    "dropout": PLANS["real-killed"],
    "split-characters": PLANS["real-split-characters"],
    "thinking": PLANS["thinking"],
}  # fmt: skip


def golden_recordings() -> list[Path]:
    """The recordings that are kept."""
    return sorted(RECORDINGS.glob("*.mcap"))


def main() -> None:
    makers: dict[str, Callable[[Roles, ExitStack, Path, Path], None]] = {
        "ngram": lambda roles, _stack, _folder, path: _ngram(roles, path),
        "takeover": lambda roles, _stack, _folder, path: _ngram(roles, path, kills=True),
    }
    for name, plan in _WITH_MODELS.items():
        makers[name] = lambda roles, stack, folder, path, plan=plan: _planned(plan, roles, stack, folder, path)  # type: ignore[misc]
    parser = argparse.ArgumentParser(prog="python -m tests.golden.recordings", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(makers)} (default: all)")
    RECORDINGS.mkdir(exist_ok=True)
    for name in parser.parse_args().names or makers:
        path = RECORDINGS / f"{name}.mcap"
        path.unlink(missing_ok=True)
        redis = RedisServer(next(iter(redis_binaries().values())))
        with tempfile.TemporaryDirectory(prefix="council-golden-") as folder, ExitStack() as stack:
            stack.callback(redis.close)
            roles = stack.enter_context(roles_on(redis.url))
            roles.ready("consumers.decipher")
            makers[name](roles, stack, Path(folder), path)
        sys.stdout.write(f"{path.name}: {path.stat().st_size:,} bytes\n")


def _planned(plan: Plan, roles: Roles, stack: ExitStack, folder: Path, path: Path) -> None:
    servers = serve(plan, folder, roles, stack)
    members = tuple(
        Member(name, part.weight, sampling=msgspec.structs.replace(plan.sampling, **part.sampling))
        for name, part in plan.parts.items()
    )
    opening = Opening(
        ENTRY_VERSION, new_session_id(), plan.prompt, members, system=plan.system, sampling=plan.sampling,
        weighting=plan.weighting,
    )  # fmt: skip

    async def disturb(pipe: AsyncPipe) -> None:
        if plan.killed:
            await kill_when_begun(plan, pipe, opening, servers)

    asyncio.run(_record(roles.url, opening, path, disturb))


def _ngram(roles: Roles, path: Path, *, kills: bool = False) -> None:
    owners = [roles.ready("aggregator") for _ in range(2 if kills else 1)]
    for model in _NGRAMS:
        roles.ready("producers", model)
    members = tuple(Member(model) for model in _NGRAMS)
    opening = Opening(
        ENTRY_VERSION, new_session_id(), "What is a generator?", members, sampling=Sampling(max_tokens=40, seed=7)
    )

    async def disturb(pipe: AsyncPipe) -> None:
        while kills and (await find_session(pipe, opening.session)).epoch < 2:
            await _kill_the_owner(pipe, opening, owners)

    asyncio.run(_record(roles.url, opening, path, disturb))


async def _kill_the_owner(pipe: AsyncPipe, opening: Opening, owners: list[Role]) -> None:
    """Kills an aggregator once the session is on its way; where that was not its owner, the next call kills the
    other."""
    at = (await find_session(pipe, opening.session)).window

    async def is_further() -> bool:
        return (await find_session(pipe, opening.session)).window > at + 30

    await until(is_further, "the session is on its way")
    if owners:
        owners.pop().kill()

    async def is_taken_over_or_goes_on() -> bool:
        state = await find_session(pipe, opening.session)
        return state.epoch > 1 or state.window > at + 90

    await until(is_taken_over_or_goes_on, "the other aggregator has the session, or had it")


async def _record(url: str, opening: Opening, path: Path, disturb: Callable[[AsyncPipe], object]) -> None:
    """Opens the session, records it to its end, and checks the law."""
    pipe, own = AsyncPipe(url), AsyncPipe(url)
    await open_session(pipe, opening)
    recording = asyncio.create_task(record_session(own, opening.session, path, RedisPresence(Log(50))))
    await disturb(pipe)  # type: ignore[misc]
    await until_ended(pipe, opening.session)
    await recording
    await check_the_law(pipe, opening.session)
    await pipe.close()
    await own.close()


if __name__ == "__main__":
    main()
