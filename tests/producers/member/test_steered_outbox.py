"""The outbox of a steered member: whatever Redis loses, repeats or shows late, the aggregator's draft of the member is
what its model continues, and the member follows each steer."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from producers.backend import Ending, Piece
from producers.member.draft import Draft
from producers.member.outbox import MOST_CONFIRMATION_S, NO_BEGINNING, MemberState, Outbox, Replies, RoundTrip
from schemas.control import Progress, Steer, Stop
from schemas.entries import Alive, AnyEntry, Failed, Finished, Token
from schemas.rules.claims import ClaimLedger, ClaimVerdict

CLAIM = "5-0"
PREFIX = "Once"
OUT_OF_MEMORY = RuntimeError("OOM")
NS_PER_S = 1_000_000_000
WINDOW_S = 1 / 60
# A model ends its answer here.
MOST_BYTES = 40


def model_continues(text: str) -> str:
    """The next token of a greedy model, which depends on the whole text; empty at its end."""
    return f" {zlib.crc32(text.encode()) % 97}" if len(text.encode()) < MOST_BYTES else ""


@dataclass
class Core:
    """What an aggregator has accepted of the member up to the entry `cut`: `ends` are those of its own kept tokens."""

    claim: str = CLAIM
    next_seq: int = 0
    branch: int = 0
    steer: Steer | None = None
    text: str = PREFIX
    ends: tuple[int, ...] = ()
    ended: bool = False
    cut: str = CLAIM

    def accept(self, entry: AnyEntry) -> None:
        if isinstance(entry, Token):
            ledger = ClaimLedger(self.claim, self.next_seq, self.branch)
            if self.ended or ledger.judge_token(entry.claim, entry.seq, entry.branch) is not ClaimVerdict.ACCEPTED:
                return
            assert entry.text == model_continues(self.text), "its draft is not what the model was asked to continue"
            self.next_seq = ledger.next_seq
            self.text += entry.text
            self.ends = (*self.ends, len(self.text.encode()))
        elif isinstance(entry, Finished) and (entry.branch, entry.tokens) == (self.branch, self.next_seq):
            assert not model_continues(self.text)
            self.ended = True

    def decide(self, place: int, text: str) -> None:
        """Steers the member at the end of one of its kept tokens, or of the prefix."""
        places = [len(PREFIX), *self.ends]
        start = places[place % len(places)]
        self.ends = tuple(end for end in self.ends if end <= start)
        self.text = self.text.encode()[:start].decode() + text
        self.steer = Steer(start, len(self.text.encode()), text)
        self.branch, self.next_seq, self.ended = self.branch + 1, 0, False


@dataclass
class World:
    """One outbox, a Redis that may refuse, lose and break, and an aggregator that commits and steers when the test says
    so."""

    outbox: Outbox = field(default_factory=lambda: Outbox(0, CLAIM, None, Draft(PREFIX)))
    now_s: float = 1_000.0
    stream: list[tuple[str, AnyEntry]] = field(default_factory=list)
    # What the aggregator knew, with the length of the stream at that commit.
    commits: list[tuple[int, Core]] = field(default_factory=lambda: [(0, Core())])
    is_cut: bool = False
    number: int = 5

    @property
    def core(self) -> Core:
        return self.commits[-1][1]

    @property
    def text(self) -> str:
        """The member's draft, as its producer has it."""
        assert self.outbox.branch.draft is not None
        return "".join(stretch.text for stretch in self.outbox.branch.draft.written)

    def write(self, most: int) -> None:
        """The model continues the present branch by so many tokens, or to its end."""
        for _ in range(most):
            if self.outbox.branch.ending is None:
                text = model_continues(self.text)
                if text:
                    self.outbox.add([Piece(text, token=7)], 1)
                else:
                    self.outbox.finish(Ending("stop", logprob=-0.5, top=((b"", -0.5),)))

    def trip(self, refused: int = 0, late: int = 0, *, executes: bool = True, answers: bool = True) -> RoundTrip | None:
        """One round trip. Bit n of `refused` refuses the nth entry; the state is that of `late` commits before."""
        trip = self.outbox.due(self.now_s, int(self.now_s * NS_PER_S))
        if trip is None:
            return None
        if self.is_cut or not (executes and answers):
            if executes and not self.is_cut:
                self._append(trip, refused)
            self.outbox.lose()
            self.is_cut = False
            return trip
        written = self._append(trip, refused)
        _, core = self.commits[max(0, len(self.commits) - 1 - late)]
        progress = Progress(CLAIM, core.next_seq, core.ended, None, core.branch, core.steer)
        state = MemberState(True, len(self.commits), core.cut, progress) if trip.reads_state else None
        self.outbox.take(trip, Replies(written, state=state, next_look_s=WINDOW_S), self.now_s)
        return trip

    def _append(self, trip: RoundTrip, refused: int) -> list[bytes | Exception | None]:
        replies: list[bytes | Exception | None] = []
        for place, entry in enumerate(trip.entries):
            if refused >> place & 1:
                replies.append(OUT_OF_MEMORY)
                continue
            self.number += 1
            self.stream.append((f"{self.number}-0", entry))
            replies.append(self.stream[-1][0].encode())
        return replies

    def commit(self, steer: tuple[int, str] | None = None) -> None:
        read, core = self.commits[-1]
        core = replace(core)
        for entry_id, entry in self.stream[read:]:
            core.accept(entry)
            core.cut = entry_id
        if steer:
            core.decide(*steer)
        self.commits.append((len(self.stream), core))

    def roll_back(self, entries: int) -> None:
        """Redis loses its newest entries, as in a failover, with the commits that contained them."""
        del self.stream[len(self.stream) - min(entries, len(self.stream)) :]
        while self.commits[-1][0] > len(self.stream):
            self.commits.pop()
        self.is_cut = True

    def window(self) -> None:
        self.now_s += WINDOW_S
        self.trip()
        self.commit()

    def settle(self) -> None:
        """All are well again, and the model writes to its end."""
        for _ in range(8):
            self.now_s += 1.0
            self.write(MOST_BYTES)
            self.trip()
            self.commit()


actions = st.one_of(
    st.tuples(st.just("write"), st.integers(1, 9)),
    st.tuples(st.just("pass"), st.sampled_from([0.004, 0.02, 0.5, 31.0])),
    st.tuples(st.just("trip"), st.just(0)),
    st.tuples(st.just("refuse"), st.integers(1, 31)),
    st.tuples(st.just("see an old state"), st.integers(1, 3)),
    st.tuples(st.just("lose the replies"), st.integers(0, 3)),
    st.tuples(st.just("lose the request"), st.just(0)),
    st.tuples(st.just("roll back"), st.integers(1, 12)),
    st.tuples(st.just("commit"), st.just(0)),
    st.tuples(st.just("steer"), st.integers(0, 9)),
    st.tuples(st.just("steer and see"), st.integers(0, 9)),
)


def perform(world: World, action: str, amount: int | float) -> None:
    match action:
        case "write":
            world.write(int(amount))
        case "pass":
            world.now_s += amount
        case "trip":
            world.trip()
        case "refuse":
            world.trip(int(amount))
        case "see an old state":
            world.trip(late=int(amount))
        case "lose the replies":
            world.trip(int(amount), answers=False)
        case "lose the request":
            world.trip(executes=False)
        case "roll back":
            world.roll_back(int(amount))
        case "commit":
            world.commit()
        case "steer":
            world.commit((int(amount), f" given{amount}"))
        case "steer and see":
            world.write(2)
            world.trip()
            world.commit((int(amount), f" shown{amount}"))
            world.now_s += WINDOW_S
            world.trip()


@given(st.lists(actions, max_size=40))
@example([("steer and see", 2), ("steer and see", 1), ("write", 2), ("roll back", 3), ("trip", 0)])
@example([("steer and see", 2), ("steer and see", 1), ("roll back", 1), ("steer", 1), ("steer", 0), ("trip", 0)])
def test_the_aggregators_draft_is_what_the_model_continues_whatever_redis_does(
    script: list[tuple[str, int | float]],
) -> None:
    world = World()
    for action, amount in script:
        perform(world, action, amount)
    world.settle()
    core, branch = world.core, world.outbox.branch
    if world.outbox._failure is not None:
        # More branches were lost than a producer keeps.
        assert world.outbox._failure.reason == NO_BEGINNING
        assert core.branch < branch.number or len(script) > 16
        return
    assert (core.branch, core.steer) == (branch.number, branch.steer)
    assert core.text == world.text
    assert core.ended
    assert not world.outbox.is_stopped
    assert not world.outbox.is_done(world.now_s + 2 * MOST_CONFIRMATION_S)


def test_a_steer_is_seen_with_the_next_look_and_what_was_on_its_way_is_not_written_again() -> None:
    """
    branch 0   " 1" " 2" " 3"      the commit keeps " 1", and gives " so"
    branch 1                  its first token has seq 0
    """
    world = World()
    world.write(3)
    world.trip()
    world.commit((1, " so"))
    world.write(2)
    world.now_s += WINDOW_S
    trip = world.trip()
    assert trip
    assert [entry.branch for entry in trip.entries if isinstance(entry, Token)] == [0, 0]
    assert world.outbox.branch.number == 1
    assert not world.outbox.has_unsent
    world.write(1)
    trip = world.trip()
    assert trip
    assert [(entry.branch, entry.seq) for entry in trip.entries if isinstance(entry, Token)] == [(1, 0)]


def test_a_draft_that_has_ended_stays_with_signs_of_life_and_has_the_measurement_of_its_end() -> None:
    world = World()
    world.write(MOST_BYTES)
    world.window()
    count = len(world.stream)
    (ending,) = [entry for _, entry in world.stream if isinstance(entry, Finished)]
    assert (ending.logprob, ending.tokens) == (-0.5, world.core.next_seq)
    for _ in range(180):
        world.window()
    assert {type(entry) for _, entry in world.stream[count:]} == {Alive}
    assert 5 <= len(world.stream) - count <= 7
    world.commit((0, " x" * MOST_BYTES))
    world.now_s += WINDOW_S
    world.trip()
    world.write(1)
    world.trip()
    ending = world.stream[-1][1]
    assert isinstance(ending, Finished)
    assert (ending.branch, ending.tokens) == (1, 0)
    world.commit()
    assert world.core.ended


def test_the_state_is_read_after_each_commit_and_not_with_each_write() -> None:
    world, states = World(), 0
    for number in range(600):
        world.now_s += WINDOW_S / 5
        if number % 3 == 0:
            world.write(1)
        trip = world.trip()
        states += trip is not None and trip.reads_state
        assert world.outbox.wait_s(world.now_s) <= WINDOW_S
    assert states == pytest.approx(120, abs=2)


@pytest.mark.parametrize("has_ended", [False, True])
def test_a_failure_ends_the_member_in_its_present_branch_also_after_the_end_of_its_draft(*, has_ended: bool) -> None:
    world = World()
    world.write(MOST_BYTES if has_ended else 2)
    world.window()
    world.commit((0, " but"))
    world.now_s += WINDOW_S
    world.trip()
    world.outbox.fail("its server said so")
    world.outbox.finish(Ending("stop"))
    world.trip()
    failed = world.stream[-1][1]
    assert isinstance(failed, Failed)
    assert (failed.branch, failed.reason) == (1, "its server said so")
    assert world.outbox.is_done(world.now_s + MOST_CONFIRMATION_S + 1)


@pytest.mark.parametrize(
    ("progress", "orders"),
    [
        (Progress(CLAIM, 2, True), ()),
        (Progress("4-0", 1, False, None, 1, Steer(4, 6, " a")), ()),
        (Progress(CLAIM, 2, False), (Stop((0,)),)),
    ],
)
def test_a_member_that_was_dropped_stops(progress: Progress, orders: tuple[Stop, ...]) -> None:
    """A member whose draft has not ended, and has ended for the aggregator, was dropped by it."""
    world = World()
    world.write(2)
    trip = world.outbox.due(world.now_s, 0)
    assert trip
    replies = Replies([b"6-0", b"7-0"], orders, "1-0", MemberState(True, 3, CLAIM, progress))
    world.outbox.take(trip, replies, world.now_s)
    assert world.outbox.is_stopped


def test_a_steer_of_another_claim_is_not_for_this_one() -> None:
    world = World()
    trip = world.outbox.due(world.now_s, 0)
    assert trip
    other = Progress("4-0", 0, False, None, 1, Steer(4, 6, " a"))
    world.outbox.take(trip, Replies([b"6-0"], state=MemberState(True, 3, CLAIM, other)), world.now_s)
    assert world.outbox.branch.number == 0
    assert not world.outbox.is_stopped


def test_a_steer_whose_beginning_is_not_known_fails_the_member() -> None:
    world = World()
    trip = world.outbox.due(world.now_s, 0)
    assert trip
    lost = Progress(CLAIM, 0, False, None, 3, Steer(17, 19, " a"))
    world.outbox.take(trip, Replies([b"6-0"], state=MemberState(True, 3, CLAIM, lost)), world.now_s)
    world.trip()
    assert isinstance(world.stream[-1][1], Failed)
    assert world.stream[-1][1].reason == NO_BEGINNING
