"""The parent commit and this one on one Redis, under load: the roles are replaced one by one, forward and back."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.sessions import Opening
from tests.support.project import ROOT
from tests.support.role_processes import Role, Roles
from tests.support.sessions import check_all_finished, opening_of, written_texts
from tests.support.waiting import until
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session, open_session

_MODELS = ("ngram:word-3", "ngram:char-6")
_SESSIONS = 4
# In the log of an aggregator, about a session of another version that it does not go on with.
_LEFT = "is left to other"


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages in the wheel of the parent commit."""
    folder = tmp_path_factory.mktemp("parent")
    archive = folder / "parent.tar"
    made = subprocess.run(["git", "archive", "--output", archive, "HEAD^"], cwd=ROOT, capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"there is no parent commit here: {made.stderr.decode().strip()}")
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "source", filter="data")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=folder / "source", capture_output=True, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / "packages")
    return folder / "packages"


@pytest.fixture
def old(parent: Path, roles: Roles) -> Callable[..., Role]:
    """Starts a role of the parent commit. The working directory, which has this commit, is not on its path."""
    path = os.pathsep.join(filter(None, [str(parent), os.environ.get("PYTHONPATH", "")]))

    def start(*arguments: str) -> Role:
        return roles.ready(*arguments, PYTHONPATH=path, PYTHONSAFEPATH="1")

    return start


async def _opened(pipe: AsyncPipe) -> list[Opening]:
    """Sessions of two members each, all of which have frames."""
    openings = [opening_of(*_MODELS, max_tokens=120) for _ in range(_SESSIONS)]
    for opening in openings:
        await open_session(pipe, opening)

    async def all_run() -> bool:
        return all([(await find_session(pipe, opening.session)).window >= 60 for opening in openings])

    await until(all_run, "each session has frames")
    return openings


def _is_left(aggregator: Role, session: str) -> bool:
    return any(_LEFT in line and session in line for line in aggregator.log().splitlines())


async def _check_all_complete(pipe: AsyncPipe, openings: list[Opening], aggregator: Role) -> None:
    """Each session has all its text, in frames that this commit's core computes alone; or there is a sentence why
    not."""

    for opening in openings:

        async def is_over(session: str = opening.session) -> bool:
            return (await find_session(pipe, session)).status == "ended" or _is_left(aggregator, session)

        await until(is_over, "the session ends, or is left to another version", 60)
        if _is_left(aggregator, opening.session):
            continue
        frames = await check_all_finished(pipe, opening.session)
        assert len(await written_texts(pipe, opening.session)) == len(_MODELS)
        assert {member.state for member in frames[-1].members} == {"finished"}


async def test_roles_are_replaced_by_those_of_the_next_version_and_back(
    roles: Roles, pipe: AsyncPipe, old: Callable[..., Role]
) -> None:
    """Aggregator and DECIPHER change in the middle of sessions: to this commit, then to the parent commit again."""
    producers = [old("producers", model, "--tokens-per-s", "40") for model in _MODELS]
    before = [old("aggregator"), old("consumers.decipher")]
    openings = await _opened(pipe)
    after = [roles.ready("aggregator"), roles.ready("consumers.decipher")]
    for role in before:
        assert role.end() == 0
    await _check_all_complete(pipe, openings, after[0])
    for producer, model in zip(producers, _MODELS, strict=True):
        roles.ready("producers", model, "--tokens-per-s", "40")
        assert producer.end() == 0
    openings = await _opened(pipe)
    before = [old("aggregator"), old("consumers.decipher")]
    for role in after:
        assert role.end() == 0
    await _check_all_complete(pipe, openings, before[0])
    for role in (*before, *after, *producers):
        assert "Traceback" not in role.log()
