"""DECIPHER under overload: it leaves work out in the order of the design card, and never any text."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from consumers.decipher.batches import MOST_FRAMES, BatchComposer, WorkCounts
from consumers.decipher.composer import Composer
from consumers.decipher.overload import Overload
from schemas.events import EnergyUpdate, ErrorEvent, Event, InterferenceEvent, TokenStream
from schemas.frames import encode_frame
from schemas.keys import entry_order, frame_id
from schemas.processes import ProcessRecord
from tests.consumers.decipher.test_decipher import ORIGIN_NS, member_of
from tests.consumers.decipher.test_decipher import frame_of as decipher_frame
from tests.golden import golden_names
from tests.golden.test_sessions import frames_of
from tests.golden.test_sessions import opening_of as golden_opening
from tests.support.protocol import events_of, numbers_of, texts_by_model, without_end
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles, roles_on
from tests.support.scripted_sessions import ScriptedProducer
from tests.support.sessions import opening_of, until_ended, written_texts
from tests.support.tcp_proxy import Kind, Proxy, is_events_write
from tests.support.waiting import until
from transport.events import EventBatch, EventCheckpoint, WrittenBatch, find_composed
from transport.redis.connection import AsyncPipe
from transport.register import list_processes
from transport.sessions import find_session, open_session


def levels(*lags: int) -> list[int]:
    overload, found = Overload(), []
    for lag in lags:
        overload.note(lag)
        found.append(overload.level)
    return found


def test_a_decipher_that_catches_up_is_not_overloaded() -> None:
    """A DECIPHER that was away for ten minutes."""
    assert set(levels(*range(36_000, 0, -60), 3, 1, 0)) == {0}


def test_a_lag_that_does_not_shrink_is_an_overload_until_it_is_gone() -> None:
    assert levels(10, 10, 11, 12, 13) == [0, 0, 0, 1, 1]
    assert levels(40, 41, 42, 43) == [0, 0, 0, 2]
    assert levels(10, 11, 12, 13, 25, 31) == [0, 0, 0, 1, 1, 2]
    assert levels(10, 11, 12, 13, 5, 2) == [0, 0, 0, 1, 1, 1]
    assert levels(10, 11, 12, 13, 1, 10) == [0, 0, 0, 1, 0, 0]


def test_a_lag_of_a_few_frames_is_not_an_overload() -> None:
    assert levels(*[6] * 50) == [0] * 50


def test_analysis_that_was_left_out_comes_with_the_next_frame_that_is_on_time() -> None:
    composer = Composer(opening_of("a", "b"), ORIGIN_NS)
    members = (member_of(model="a", position_bytes=9), member_of(model="b", position_bytes=9))
    said: dict[str, Any] = {"frontier_bytes": 5, "agreement": 0.1, "interference": "destructive"}
    for window in range(4):
        frame = decipher_frame(window, members, **said)
        composer.add(frame)
        events = composer.compose(frame, lambda: 0.0, with_analysis=window == 3)
        patterns = [event for event in events if isinstance(event, InterferenceEvent)]
        assert len(patterns) == (window == 3)


def complete_in(events: list[Event]) -> set[str]:
    return {e.payload.modelId for e in events if isinstance(e, TokenStream) and e.payload.isComplete}


@pytest.mark.parametrize("name", golden_names())
def test_frames_composed_as_one_have_the_same_content_as_one_by_one(name: str) -> None:
    """Seven at a time: the energy of the newest frame, all tokens, all texts in order, complete members, all errors."""
    opening, frames = golden_opening(name), frames_of(name)
    each, together = Composer(opening, ORIGIN_NS), Composer(opening, ORIGIN_NS)
    for start in range(0, len(frames), 7):
        part = frames[start : start + 7]
        single = []
        for frame in part:
            each.add(frame)
            single += each.compose(frame, lambda: 0.0, with_analysis=False)
            together.add(frame)
        one = together.compose(part[-1], lambda: 0.0, with_analysis=False)
        energies = [event.payload for event in single if isinstance(event, EnergyUpdate)]
        (energy,) = [event.payload for event in one if isinstance(event, EnergyUpdate)]
        assert energy.totalEnergy == energies[-1].totalEnergy
        assert energy.tokensGenerated == sum(payload.tokensGenerated for payload in energies)
        assert energy.deltaEnergy == pytest.approx(sum(payload.deltaEnergy for payload in energies), abs=1e-7)
        assert texts_by_model(one) == texts_by_model(single)
        assert complete_in(one) == complete_in(single)
        errors = [[e.payload for e in events if isinstance(e, ErrorEvent)] for events in (one, single)]
        assert errors[0] == errors[1]
        assert each.phase == together.phase


def test_all_frames_that_were_read_are_composed_in_small_batches() -> None:
    opening, frames = golden_opening("twins"), frames_of("twins")
    entries = [(frame_id(frame.window_index), encode_frame(frame)) for frame in frames]
    work, written = WorkCounts(), list[EventBatch]()
    composer = BatchComposer(Composer(opening, ORIGIN_NS), EventCheckpoint(), work)
    for batch in composer.batches(entries):
        assert batch.before == composer.cursor
        written.append(batch)
        composer.note(WrittenBatch(True, batch.after, len(frames) - 1))
    assert [batch.final for batch in written] == [False] * (len(written) - 1) + [True]
    assert all(before.after == after.before for before, after in pairwise(written))
    windows = [entry_order(batch.after)[0] for batch in written]
    assert all(later - earlier <= MOST_FRAMES for earlier, later in pairwise([0, *windows]))
    assert (work.frames, work.frames_batched, work.frames_without_analysis) == (len(frames), 0, 0)


async def test_a_decipher_that_cannot_keep_up_composes_frames_together_and_loses_no_text(
    redis: RedisServer, roles: Roles, pipe: AsyncPipe
) -> None:
    """Its writes take as long as 40 windows, ten times; then they take no time again."""
    proxy = Proxy(redis.url.removeprefix("unix://"))
    with roles_on(proxy.url) as slow:
        roles.ready("aggregator")
        slow.ready("consumers.decipher")
        speaker, opening = ScriptedProducer(redis, "test:speaker"), opening_of("test:speaker")
        await open_session(pipe, opening)
        speaker.take(opening.session)
        # All of them before the first, so that none of its writes slips through between two.
        faults = [proxy.strike(Kind.HOLD, is_events_write) for _ in range(10)]
        for number, fault in enumerate(faults):
            speaker.say(f" word {number}")

            async def is_held(fault: Any = fault) -> bool:
                return bool(fault.commands)

            await until(is_held, "a write is held up")
            reached = (await find_session(pipe, opening.session)).window + 40

            async def is_later(reached: int = reached) -> bool:
                state = await find_session(pipe, opening.session)
                return state.window >= reached

            await until(is_later, "forty windows go by")
            speaker.say(f" and {number}")
            fault.release()
        speaker.finish()
        state = await until_ended(pipe, opening.session)

        async def record_at_the_end() -> ProcessRecord | None:
            records = [found for found in await list_processes(pipe) if found.role == "decipher"]
            return next((found for found in records if found.detail["frames"] == state.window + 1), None)

        record = await until(record_at_the_end, "DECIPHER has told everything, and says so")
        assert record
        assert (await find_composed(pipe, opening.session)).is_over
        events = [event for _, event in await events_of(pipe, opening.session)]
    assert int(record.detail["frames_batched"]) >= 40
    updates = [event for event in without_end(events) if isinstance(event, EnergyUpdate)]
    assert len(updates) == state.window + 1 - int(record.detail["frames_batched"])
    numbers = numbers_of(events)
    assert numbers == sorted(numbers)
    assert list(texts_by_model(events).values()) == list((await written_texts(pipe, opening.session)).values())
    assert sum(update.payload.tokensGenerated for update in updates) == state.progress[0].next_seq
