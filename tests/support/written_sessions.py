"""Sessions with the answers that a test chooses, written as the council's processes write them, in a moment."""

from __future__ import annotations

import re
import time
from typing import Any

import msgspec

from schemas import keys
from schemas.control import Progress, encode_progress
from schemas.entries import AnyEntry, Claim, Finished, Token, encode_entry
from schemas.frames import MemberFrame, encode_frame
from schemas.sessions import Opening
from tests.support.frames import made_frame
from tests.support.redis_servers import RedisServer
from tests.support.sessions import opening_of
from transport.branches import add_branch
from transport.redis.connection import AsyncPipe
from transport.redis.scripts import SCRIPTS


async def write_session(
    redis: RedisServer, pipe: AsyncPipe, *answers: str, ended: bool = True, **opening: Any
) -> Opening:
    """A session whose members, "a", "b" and so on, have written these answers behind its prefix: a token for each word,
    and one frame. Without answers it has no frame. It is not announced: no process takes it."""
    made = msgspec.structs.replace(opening_of(*"abcdef"[: len(answers) or 1]), **opening)
    if made.parent is not None:
        await add_branch(pipe, made.parent.session, made.session)
    redis.run(*SCRIPTS["open"].call(keys.of_session(made.session), [encode_entry(made), 600]))  # type: ignore[arg-type]
    state, stream = keys.state(made.session), keys.tokens(made.session)

    def write(entry: AnyEntry) -> str:
        raw = redis.run("XADD", stream, "*", keys.ENTRY_FIELD, encode_entry(entry))
        assert isinstance(raw, bytes)
        return raw.decode()

    progress, members, cut = [], [], ""
    for index, answer in enumerate(answers):
        claim = cut = write(Claim(index, time.time_ns()))
        pieces = re.findall(r"\s*\S+|\s+", answer)
        for seq, piece in enumerate(pieces):
            cut = write(Token(index, claim, seq, "answer", piece, time.time_ns(), time.time_ns()))
        if ended:
            cut = write(Finished(index, claim, time.time_ns(), len(pieces)))
        text = made.prefix + answer
        end = len(text.lstrip().encode())
        name = made.names[index]
        members.append(MemberFrame(name, "finished", 0.5, 1.0, None, end, 0, text, "", "stop"))
        progress.append(Progress(claim, len(pieces), ended))
    if answers:
        frame = made_frame(0, tuple(members), session=made.session, mode="free", final=ended, cut=cut)
        redis.run("XADD", keys.frames(made.session), keys.frame_id(0), keys.ENTRY_FIELD, encode_frame(frame))
        redis.run("HSET", state, "cut", cut, "window", "0", "progress", encode_progress(tuple(progress)))
    redis.run("HSET", state, "status", "ended" if ended else "open")
    return made
