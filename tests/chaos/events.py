"""The checks of a session that DECIPHER follows: its law, its tokens and its events."""

from __future__ import annotations

import msgspec

from schemas import keys
from schemas.events import ENSEMBLE, protocol_model_ids
from schemas.frames import Frame
from tests.support.sessions import check_all_finished, until_ended
from tests.support.waiting import until
from transport.redis.connection import AsyncPipe
from transport.sessions import find_session


async def check_events(pipe: AsyncPipe, session: str, frames: list[Frame]) -> None:
    """Waits until DECIPHER has composed every frame. Each frame has one energy_update, and the end one of 0; the ids
    rise, the texts are those of the frames, and each member is complete once."""

    async def is_composed() -> bool:
        return keys.entry_order((await find_session(pipe, session)).decipher)[0] >= len(frames)

    await until(is_composed, f"DECIPHER has composed every frame of {session}")
    entries = await pipe.one("XRANGE", keys.events(session), "-", "+")
    ids = [entry[0].decode() for entry in entries]
    orders = [keys.entry_order(entry_id) for entry_id in ids]
    assert orders == sorted(set(orders))
    events = [msgspec.json.decode(entry[1][1]) for entry in entries]
    updates = [entry_id for entry_id, event in zip(ids, events, strict=True) if event["type"] == "energy_update"]
    assert updates == [keys.frame_id(k) for k in range(len(frames) + 1)]
    energies = [event["payload"]["totalEnergy"] for event in events if event["type"] == "energy_update"]
    assert energies == [*(frame.energy for frame in frames), 0.0]
    fields = [event["payload"]["fieldType"] for event in events if event["type"] == "energy_field"]
    assert fields[-1] == "lightning"
    members = protocol_model_ids(tuple(member.model for member in frames[0].members))
    texts = dict.fromkeys(members, "")
    expected = ["".join(frame.members[index].text for frame in frames) for index in range(len(members))]
    if frames[0].consensus.agreed is not None:
        # The text of the council alone is composed.
        texts[ENSEMBLE] = ""
        expected = [*[""] * len(members), "".join(frame.consensus.agreed or "" for frame in frames)]
    for event in events:
        if event["type"] == "token_stream":
            texts[event["payload"]["modelId"]] += "".join(event["payload"]["tokens"])
    assert list(texts.values()) == expected
    complete = [event["payload"]["modelId"] for event in events if event.get("payload", {}).get("isComplete")]
    assert len(complete) == len(set(complete)) == len(texts)


async def check_finished_with_events(pipe: AsyncPipe, session: str) -> list[Frame]:
    """Waits for the session's end. Checks that every member finished, its frames and its events. Returns the frames."""
    await until_ended(pipe, session)
    frames = await check_all_finished(pipe, session)
    await check_events(pipe, session, frames)
    return frames
