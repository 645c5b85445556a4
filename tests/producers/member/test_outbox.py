"""The outbox by a clock that the test sets: whatever Redis refuses, loses or repeats, every token is accepted once."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.backend import Ending, Piece
from producers.member.grants import GrantGate
from producers.member.outbox import (
    CONTROL_S,
    MOST_AT_ONCE,
    MOST_CONFIRMATION_S,
    SIGN_S,
    STATE_S,
    MemberState,
    Outbox,
    Replies,
    RoundTrip,
)
from schemas.control import Progress, Stop
from schemas.entries import Alive, AnyEntry, Failed, Finished, Loading, Starved, Token, Waiting
from schemas.rules.claims import ClaimLedger, ClaimVerdict

CLAIM = "5-0"
OUT_OF_MEMORY = RuntimeError("OOM")
NS_PER_S = 1_000_000_000


@dataclass
class Core:
    """What an aggregator has accepted of the member, up to the entry `cut`."""

    ledger: ClaimLedger = field(default_factory=lambda: ClaimLedger(CLAIM))
    texts: list[str] = field(default_factory=list)
    cut: str = CLAIM
    ending: str = ""

    def accept(self, entry: AnyEntry) -> None:
        if isinstance(entry, Token):
            if not self.ending and self.ledger.judge_token(entry.claim, entry.seq) is ClaimVerdict.ACCEPTED:
                self.texts.append(entry.text)
        elif (isinstance(entry, Finished) and entry.tokens == self.ledger.next_seq) or isinstance(entry, Failed):
            self.ending = self.ending or type(entry).__name__

    def copy(self) -> Core:
        return Core(ClaimLedger(CLAIM, self.ledger.next_seq), [*self.texts], self.cut, self.ending)


class World:
    """One outbox, a Redis that may refuse, lose and break, and an aggregator that commits when the test says so."""

    def __init__(self) -> None:
        self.outbox = Outbox(0, CLAIM)
        self.now_s = 1_000.0
        self.stream: list[tuple[str, AnyEntry]] = []
        # What the aggregator knew, with the length of the stream at that commit; Redis may be set back to each.
        self.commits: list[tuple[int, Core]] = [(0, Core())]
        self.is_cut = False
        self.wrote: list[str] = []
        self.number = 0
        self.texts_by_seq: dict[int, str] = {}

    @property
    def core(self) -> Core:
        return self.commits[-1][1]

    def trip(self, refused: int = 0, *, executes: bool = True, answers: bool = True) -> RoundTrip | None:
        """One round trip. Bit n of `refused` refuses the nth entry."""
        trip = self.outbox.due(self.now_s, int(self.now_s * NS_PER_S))
        if trip is None:
            return None
        assert len(trip.entries) <= MOST_AT_ONCE + 2
        if self.is_cut or not (executes and answers):
            if executes and not self.is_cut:
                self.write(trip, refused)
            self.outbox.lose()
            self.is_cut = False
            return trip
        written = self.write(trip, refused)
        state = None
        if trip.reads_state:
            core = self.core
            progress = Progress(CLAIM, core.ledger.next_seq, bool(core.ending))
            state = MemberState(True, len(self.commits), core.cut, progress)
        self.outbox.take(trip, Replies(written, state=state), self.now_s)
        return trip

    def write(self, trip: RoundTrip, refused: int) -> list[bytes | Exception | None]:
        replies: list[bytes | Exception | None] = []
        for place, entry in enumerate(trip.entries):
            if refused >> place & 1:
                replies.append(OUT_OF_MEMORY)
                continue
            if isinstance(entry, Token):
                assert self.texts_by_seq.setdefault(entry.seq, entry.text) == entry.text
            self.number += 1
            self.stream.append((f"{self.number + 5}-0", entry))
            replies.append(self.stream[-1][0].encode())
        return replies

    def commit(self) -> None:
        read, core = self.commits[-1]
        core = core.copy()
        for entry_id, entry in self.stream[read:]:
            core.accept(entry)
            core.cut = entry_id
        self.commits.append((len(self.stream), core))

    def roll_back(self, entries: int) -> None:
        """Redis loses its newest entries, as in a failover, with the commits that contained them."""
        del self.stream[len(self.stream) - min(entries, len(self.stream)) :]
        while self.commits[-1][0] > len(self.stream):
            self.commits.pop()
        self.is_cut = True


actions = st.one_of(
    st.tuples(st.just("write"), st.integers(1, 4)),
    st.tuples(st.just("many"), st.just(MOST_AT_ONCE + 40)),
    st.tuples(st.just("pass"), st.sampled_from([0.004, 0.1, 0.5, 1.0, 31.0])),
    st.tuples(st.just("trip"), st.just(0)),
    st.tuples(st.just("refuse"), st.integers(1, 31)),
    st.tuples(st.just("lose the replies"), st.integers(0, 3)),
    st.tuples(st.just("lose the request"), st.just(0)),
    st.tuples(st.just("roll back"), st.integers(1, 12)),
    st.tuples(st.just("commit"), st.just(0)),
    st.tuples(st.just("starve"), st.just(0)),
)


def perform(world: World, action: str, amount: int | float) -> None:
    if action in ("write", "many"):
        texts = [f" {len(world.wrote) + number}" for number in range(int(amount))]
        world.wrote += texts
        world.outbox.add([Piece(text) for text in texts], int(world.now_s * NS_PER_S))
    elif action == "pass":
        world.now_s += amount
    elif action == "trip":
        world.trip()
    elif action == "refuse":
        world.trip(int(amount))
    elif action == "lose the replies":
        world.trip(int(amount), answers=False)
    elif action == "lose the request":
        world.trip(executes=False)
    elif action == "roll back":
        world.roll_back(int(amount))
    elif action == "commit":
        world.commit()
    elif action == "starve" and not world.wrote:
        world.outbox.starve("no memory", room_helps=True)


@given(st.lists(actions, max_size=40), st.lists(actions, max_size=20), st.booleans())
def test_every_token_is_accepted_once_and_in_order_whatever_redis_does(
    before: list[tuple[str, int | float]], after: list[tuple[str, int | float]], fails: bool
) -> None:
    """Actions before the model's end, and after it; then Redis and the aggregator are well again."""
    world = World()
    for action, amount in before:
        perform(world, action, amount)
    if fails:
        world.outbox.fail("stop")
    else:
        world.outbox.finish(Ending("stop"))
    for action, amount in after:
        if action not in ("write", "many"):
            perform(world, action, amount)
    for _ in range(20):
        world.now_s += STATE_S
        world.trip()
        world.commit()
    if not fails or world.core.ending:
        assert world.core.texts == world.wrote
    assert world.core.ending == ("Failed" if fails else "Finished")
    assert world.outbox.is_stopped


def test_the_confirmation_time_begins_when_the_ending_is_delivered() -> None:
    """
    seconds    0         40              41        69        71
    model      finished
    Redis      away ---- takes the end
    outbox                               waits     waits     done
    """
    world = World()
    perform(world, "write", 3)
    world.outbox.finish(Ending("stop"))
    world.trip(executes=False)
    world.now_s += 40.0
    world.trip()
    world.trip()
    delivered_s = world.now_s
    assert isinstance(world.stream[-1][1], Finished)
    assert not world.outbox.is_done(delivered_s + MOST_CONFIRMATION_S - 1.0)
    assert world.outbox.is_done(delivered_s + MOST_CONFIRMATION_S + 1.0)


def test_a_lost_end_is_written_again_though_redis_was_away_for_long() -> None:
    """The aggregator is past the ending and has accepted one token: the other two, and the ending, were lost."""
    world = World()
    perform(world, "write", 3)
    world.outbox.finish(Ending("stop"))
    world.now_s += 40.0
    world.trip()
    ending_id = world.stream[-1][0]
    del world.stream[1:]
    world.commit()
    world.core.cut = ending_id
    world.now_s += STATE_S
    world.trip()
    assert not world.outbox.is_done(world.now_s)
    trip = world.trip()
    assert trip
    assert [entry.seq for entry in trip.entries if isinstance(entry, Token)] == [1, 2]
    assert isinstance(trip.entries[-1], Finished)


def test_a_failure_is_written_after_all_tokens_were_taken() -> None:
    """Redis refuses the last token and would have taken the mark: the core would drop the member without the token."""
    world = World()
    perform(world, "write", 2)
    world.outbox.fail("its server broke off")
    world.trip(refused=0b10)
    world.commit()
    assert not world.core.ending
    world.trip()
    world.trip()
    world.commit()
    assert (world.core.ending, world.core.texts) == ("Failed", world.wrote)


def test_the_first_ending_counts() -> None:
    world = World()
    perform(world, "write", 1)
    world.outbox.finish(Ending("length"))
    world.outbox.fail("its producer was stopped")
    world.trip()
    assert isinstance(world.stream[-1][1], Finished)


@pytest.mark.parametrize("sign", [Alive, Waiting, Loading])
def test_a_silent_member_writes_a_sign_every_half_second_and_a_new_one_at_once(
    sign: type[Alive] | type[Waiting] | type[Loading],
) -> None:
    world = World()
    world.outbox.show(sign)
    for _ in range(100):
        world.trip()
        world.now_s += 0.05
    assert {type(entry) for _, entry in world.stream} == {sign}
    assert len(world.stream) == pytest.approx(5.0 / SIGN_S, abs=1)
    other = Waiting if sign is Alive else Alive
    count = len(world.stream)
    world.outbox.show(other)
    world.trip()
    assert [type(entry) for _, entry in world.stream[count:]] == [other]


def test_after_the_ending_there_is_no_sign_of_life() -> None:
    world = World()
    world.outbox.finish(Ending("stop"))
    for _ in range(20):
        world.trip()
        world.now_s += 0.5
    assert [type(entry) for _, entry in world.stream] == [Finished]


def test_control_and_state_are_read_ten_times_and_once_a_second() -> None:
    world, trips = World(), []
    for _ in range(1_000):
        trips.append(world.trip())
        world.now_s += 0.01
    made = [trip for trip in trips if trip]
    assert sum(trip.control_after is not None for trip in made) == pytest.approx(10.0 / CONTROL_S, abs=12)
    assert sum(trip.reads_state for trip in made) == pytest.approx(10.0 / STATE_S, abs=1)
    assert not any(trip.reads_time for trip in made)


@pytest.mark.parametrize(
    ("orders", "is_stopped"),
    [((Stop((0,)),), True), ((Stop(),), True), ((Stop((1, 2)),), False), ((), False), ((Stop((1,)), Stop((0,))), True)],
)
def test_a_stop_of_this_member_or_of_all_ends_it(orders: tuple[Stop, ...], is_stopped: bool) -> None:
    world = World()
    trip = world.outbox.due(world.now_s, 0)
    assert trip
    assert trip.control_after == "0"
    world.outbox.take(trip, Replies([b"9-0"], orders, "7-0", MemberState(True)), world.now_s)
    assert world.outbox.is_stopped == is_stopped
    world.now_s += CONTROL_S
    trip = world.outbox.due(world.now_s, 0)
    assert trip
    assert trip.control_after == "7-0"


@pytest.mark.parametrize(
    ("state", "is_stopped"),
    [
        (MemberState(is_open=False), True),
        (MemberState(True, progress=None), False),
        (MemberState(True, progress=Progress(CLAIM, 3, False)), False),
        (MemberState(True, progress=Progress(CLAIM, 3, True)), True),
        (MemberState(True, progress=Progress("4-0", 0, False)), False),
        (MemberState(True, progress=Progress("4-0", 1, False)), True),
    ],
)
def test_a_session_that_needs_nothing_more_of_the_member_stops_it(state: MemberState, is_stopped: bool) -> None:
    """Its session has ended or is gone, the aggregator has dropped it, or another claim's text was accepted."""
    world = World()
    trip = world.outbox.due(world.now_s, 0)
    assert trip
    world.outbox.take(trip, Replies([b"9-0"], state=state), world.now_s)
    assert world.outbox.is_stopped == is_stopped
    assert world.outbox.is_done(world.now_s) == is_stopped


def test_a_session_that_is_gone_takes_nothing_more() -> None:
    world = World()
    trip = world.outbox.due(world.now_s, 0)
    assert trip
    world.outbox.take(trip, Replies([None]), world.now_s)
    assert world.outbox.is_stopped


def test_a_lack_of_memory_is_written_once() -> None:
    world = World()
    world.outbox.starve("no memory", room_helps=True)
    world.trip(refused=1)
    for _ in range(4):
        world.trip()
    assert not any(isinstance(entry, Starved) for _, entry in world.stream)


def test_a_held_member_reads_its_grant_with_the_time_and_looks_when_it_is_expected() -> None:
    gate = GrantGate()
    outbox = Outbox(0, CLAIM, gate)
    trip = outbox.due(10.0, 0)
    assert trip
    assert (trip.reads_state, trip.reads_time, outbox.is_held) == (True, True, True)
    progress = Progress(CLAIM, 0, False, -1)
    outbox.take(trip, Replies([b"9-0"], state=MemberState(True, 1, CLAIM, progress), next_look_s=0.012), 10.001)
    assert outbox.wait_s(10.002) == pytest.approx(0.010)
    granted = msgspec.structs.replace(progress, grant=0)
    trip = outbox.due(10.012, 0)
    assert trip
    outbox.take(trip, Replies(state=MemberState(True, 2, CLAIM, granted), next_look_s=0.016), 10.013)
    assert not outbox.is_held
    assert outbox.wait_s(10.013) == CONTROL_S


def test_a_grant_of_another_claim_is_no_grant() -> None:
    outbox = Outbox(0, CLAIM, GrantGate())
    trip = outbox.due(10.0, 0)
    assert trip
    other = MemberState(True, 1, CLAIM, Progress("4-0", 0, False, 500))
    outbox.take(trip, Replies([b"9-0"], state=other), 10.0)
    assert outbox.is_held


def test_a_member_that_has_ended_is_not_held() -> None:
    outbox = Outbox(0, CLAIM, GrantGate())
    outbox.finish(Ending("stop"))
    assert not outbox.is_held
