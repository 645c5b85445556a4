"""The Python examples of README.md run as a reader pastes them."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.council_command import environment
from tests.support.project import ROOT
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles

MODELS = ("ngram:word-3", "ngram:char-6")


async def run(code: str, variables: Mapping[str, str]) -> list[str]:
    """The lines that the program prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, env=variables,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, said = await process.communicate()
    assert (process.returncode, said) == (0, b"")
    return out.decode().splitlines()


async def test_the_examples_print_the_answers_and_their_pieces(
    redis: RedisServer, roles: Roles, tmp_path: Path
) -> None:
    """The first one starts a private council; the second one finds a council that runs."""
    roles.ready("aggregator")
    for model in MODELS:
        roles.ready("producers", model, "--tokens-per-s", "200")
    section = (ROOT / "README.md").read_text().partition("## From Python")[2].partition("\n## ")[0]
    asking, reading = re.findall(r"```python\n(.*?)```", section, re.S)
    answers, pieces = await asyncio.gather(
        run(asking, environment(TMPDIR=str(tmp_path), COUNCIL_NGRAM_TOKENS_PER_S="400")),
        run(reading, environment(redis.url)),
    )
    assert [line for line in answers if line.endswith(":") and line[:-1] in MODELS] == [f"{name}:" for name in MODELS]
    assert all(re.fullmatch(r"ngram:(word-3|char-6) [01]\.\d\d (['\"]).+\2", piece) for piece in pieces), pieces
    # A line for each piece of text, and not one for each frame. In step mode a piece ends where a token of one of the
    # two members ends, and each of them has 40.
    assert 10 < len(pieces) <= 2 * (40 + 40)
