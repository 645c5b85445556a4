"""One answer of a real model, written together by two members that are asked in different ways."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from aggregator.core.replay import replayed
from schemas.entries import Steered, Token, decode_entry
from schemas.frames import decode_frame, encode_frame
from schemas.keys import entry_order
from schemas.rules.partings import PARTED
from tests.support.role_processes import Roles
from tests.support.sessions import committed_frames, opening_of, token_stream, until_ended
from transport.redis.connection import AsyncPipe
from transport.sessions import open_session

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("real")]

SYSTEMS = {"plain": "Answer in one short sentence.", "pirate": "You are a pirate. Always begin with: Arrr!"}


async def test_two_ways_to_ask_one_model_write_one_answer_that_follows_from_their_tokens(
    roles: Roles, pipe: AsyncPipe, smollm2: Path
) -> None:
    """It ends; decisions tile it; each token is in it or discarded; a replay of the stream gives the same frames."""
    roles.ready("aggregator")
    roles.ready("producers", "box", "--path", str(smollm2), "--parallel", "2", "--warm")
    opening = opening_of("box", "box", max_tokens=24, prompt="Name an animal that lives in the sea.")
    members = [
        msgspec.structs.replace(member, name=name, system=system)
        for member, (name, system) in zip(opening.members, SYSTEMS.items(), strict=True)
    ]
    sampling = msgspec.structs.replace(opening.sampling, temperature=0.0)
    opening = msgspec.structs.replace(opening, members=tuple(members), sampling=sampling, sync="consensus")
    await open_session(pipe, opening)
    await until_ended(pipe, opening.session)

    committed = [raw for _, raw in await committed_frames(pipe, opening.session)]
    stream = await token_stream(pipe, opening.session)
    again = [encode_frame(closed.frame) for closed, _ in zip(replayed(stream, len(committed)), committed, strict=False)]
    assert again == committed

    frames = [decode_frame(raw) for raw in committed]
    assert frames[-1].final
    assert [member.state for member in frames[-1].members] == ["finished", "finished"]
    agreed = "".join(frame.consensus.agreed or "" for frame in frames)
    assert agreed
    for member in (0, 1):
        assert "".join(frame.members[member].text for frame in frames) == agreed
    decisions = [decision for frame in frames for decision in frame.consensus.decisions or ()]
    ends = [0, *(decision.end for decision in decisions)]
    assert [decision.at for decision in decisions] == ends[:-1]
    assert ends[-1] == len(agreed.encode())
    # They part, and so a member is steered: the model continues what another one wrote.
    assert any(decision.kind in PARTED and decision.against for decision in decisions)
    entries = [decode_entry(raw) for _, raw in stream]
    assert any(isinstance(entry, Steered) for entry in entries)
    assert any(isinstance(entry, Token) and entry.branch > 0 for entry in entries)
    shown = [token for frame in frames for token in frame.tokens]
    discarded = sum(frame.counts.superseded for frame in frames)
    # A producer may write on for a moment after the final frame.
    cut = entry_order(frames[-1].cut)
    counted = [entry for (entry_id, _), entry in zip(stream, entries, strict=True) if entry_order(entry_id) <= cut]
    assert len(shown) + discarded == sum(isinstance(entry, Token) for entry in counted)
