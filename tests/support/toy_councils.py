"""Consensus sessions of toy models under any timing: producers write what their model writes, and follow its steers.

schedule     for each window: which member writes how many tokens, in this order; how late a steer is seen
             window 0: member 1 writes 3;  window 1: member 0 writes 1, member 1 writes 2;  ...
after it     all members write in each window, until the session is over
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

from aggregator.core import checkpoint
from aggregator.core.session import Session
from schemas.control import Steer
from schemas.entries import NO_TOP, AnyEntry, Claim, Finished, Quality, Steered, Token, encode_entry, pack_top
from schemas.frames import Decision, Frame
from schemas.grid import NS_PER_MS, last_ms_of_window
from schemas.keys import entry_order
from schemas.sessions import ENTRY_VERSION, LONGEST_MS, Limits, Member, Opening, Sampling
from tests.oracle.toy_models import CUTS, END, ToyModel, changed_chains, drawn_chains
from tests.support.speeches import often

OPENED = "60000-0"
# More windows than any of these sessions needs.
MOST_WINDOWS = 3_000
# A producer writes its last token a second time.
AGAIN = 0


@dataclass(frozen=True)
class Toy:
    """One member: its model and its weight. begins_with_space: its first token has white space before the answer."""

    model: ToyModel
    weight: float = 1.0
    begins_with_space: bool = False


@dataclass(frozen=True)
class Timing:
    """schedule: of each window the (member, number of tokens) in the order in which they are written. seen_after: of
    each member, how many windows later it sees a steer. afterwards: how many tokens each member writes in a window once
    the schedule is over. loaded: the windows, modulo 8, after which the session is dumped and loaded."""

    schedule: Sequence[Sequence[tuple[int, int]]] = ()
    seen_after: Sequence[int] = ()
    afterwards: int = 1
    loaded: frozenset[int] = frozenset()


@dataclass
class ToyProducer:
    """The producer of one member. text: its draft, with what was given to it; own: the ends of its own tokens."""

    number: int
    toy: Toy
    claim: str = ""
    branch: int = 0
    seq: int = 0
    text: str = ""
    own: list[int] = field(default_factory=list)
    last: Token | None = None
    is_done: bool = False

    def next_entry(self, now_ns: int) -> Token | Finished | None:
        """The next token, or the mark of the end; None after that."""
        if self.is_done:
            return None
        step = self.toy.model.step(self.text)
        pieces = self.toy.model.listed_pieces(step)
        space = " " if self.toy.begins_with_space and not self.text else ""
        ranked = sorted((pieces or {}).items(), key=lambda one: (-one[1], one[0]))[: self.toy.model.listed]
        top = pack_top([((space.encode() if piece else b"") + piece, math.log(p)) for piece, p in ranked])
        logprob = math.log(pieces[step.text.encode()]) if pieces is not None else None
        if step.text == END:
            self.is_done = True
            return Finished(self.number, self.claim, now_ns, self.seq, "stop", self.branch, logprob, top)
        quality: Quality = "missing" if pieces is None else "real"
        self.last = Token(
            self.number, self.claim, self.seq, "answer", space + step.text, now_ns, now_ns, logprob, quality,
            top=top if pieces is not None else NO_TOP, branch=self.branch,
        )  # fmt: skip
        self.text += step.text
        self.own.append(len(self.text.encode()))
        self.seq += 1
        return self.last

    def follow(self, branch: int, steer: Steer) -> None:
        """Continues the text of a steer in its branch."""
        self.own = [end for end in self.own if end <= steer.start]
        self.text = self.text.encode()[: steer.start].decode() + steer.text
        assert len(self.text.encode()) == steer.end
        self.branch, self.seq, self.last, self.is_done = branch, 0, None, False


@dataclass
class ToyRun:
    """A session from its opening to its final frame, window by window."""

    toys: Sequence[Toy]
    timing: Timing
    max_tokens: int = 8_000
    temperature: float = 0.0
    seed: int | None = None
    frames: list[Frame] = field(default_factory=list)
    stream: list[tuple[str, bytes]] = field(default_factory=list)
    # Tokens that were written in the member's branch of that time, and in an earlier one, repeated ones among these.
    accepted: int = 0
    stale: int = 0
    steers: list[tuple[int, int, Steer]] = field(default_factory=list)

    def __post_init__(self) -> None:
        members = tuple(Member(f"toy-{number}", toy.weight) for number, toy in enumerate(self.toys))
        self.opening = Opening(
            ENTRY_VERSION, "s1", "Why?", members, sync="consensus",
            sampling=Sampling(self.max_tokens, self.temperature, self.seed),
            limits=Limits(detach_ms=LONGEST_MS, life_ms=LONGEST_MS, frontier_waits_ms=LONGEST_MS,
                          first_token_ms=LONGEST_MS, claim_waits_ms=LONGEST_MS),
        )  # fmt: skip
        self.session = Session(self.opening, OPENED)
        self.producers = [ToyProducer(number, toy) for number, toy in enumerate(self.toys)]
        self._seen_in = [MOST_WINDOWS] * len(self.toys)
        self._marks: list[Steered] = []

    def to_the_end(self) -> ToyRun:
        while not (self.frames and self.frames[-1].final):
            assert len(self.frames) < MOST_WINDOWS, f"not over: {self.agreed!r}, {self.session.progress}"
            self.window()
        return self

    def window(self) -> Frame:
        """Writes and closes the next window."""
        window = len(self.frames)
        self._follow(window)
        frame = self.session.close(self._entries(window)).frame
        self.frames.append(frame)
        for producer, progress in zip(self.producers, self.session.progress, strict=True):
            known = max([branch for member, branch, _ in self.steers if member == producer.number], default=0)
            if progress.branch > known:
                assert progress.steer is not None
                assert progress.branch == known + 1, "a member is steered once in a window"
                self.steers.append((producer.number, progress.branch, progress.steer))
                self._marks.append(Steered(producer.number, progress.branch, progress.steer.start, progress.steer.text))
                lags = self.timing.seen_after
                self._seen_in[producer.number] = window + 1 + (lags[producer.number % len(lags)] if lags else 0)
        if window % 8 in self.timing.loaded:
            self._load()
        return frame

    def _follow(self, window: int) -> None:
        for producer, progress in zip(self.producers, self.session.progress, strict=True):
            if progress.branch > producer.branch and window >= self._seen_in[producer.number]:
                assert progress.steer is not None
                producer.follow(progress.branch, progress.steer)

    def _entries(self, window: int) -> list[tuple[str, bytes]]:
        ms, begun = last_ms_of_window(self.session.origin_ns, window), len(self.stream)

        def write(entry: AnyEntry) -> str:
            entry_id = f"{ms}-{len(self.stream) - begun}"
            self.stream.append((entry_id, encode_entry(entry)))
            return entry_id

        for mark in self._marks:
            write(mark)
        self._marks = []
        if not window:
            for producer in self.producers:
                producer.claim = write(Claim(producer.number, ms * NS_PER_MS))
        branches = [progress.branch for progress in self.session.progress]
        for number, count in self._planned(window):
            producer = self.producers[number]
            if count == AGAIN and producer.last:
                write(producer.last)
                self.stale += producer.branch < branches[number]
            for _ in range(count):
                entry = producer.next_entry(ms * NS_PER_MS)
                if entry is not None:
                    write(entry)
                if isinstance(entry, Token):
                    self.accepted += producer.branch == branches[number]
                    self.stale += producer.branch < branches[number]
        return self.stream[begun:]

    def _planned(self, window: int) -> Sequence[tuple[int, int]]:
        if window < len(self.timing.schedule):
            return [(number % len(self.toys), count) for number, count in self.timing.schedule[window]]
        return [(number, self.timing.afterwards) for number in range(len(self.toys))]

    def _load(self) -> None:
        """Another process goes on from the checkpoint."""
        raw = checkpoint.dump(self.session)
        self.session, need_from = checkpoint.load(self.opening, OPENED, raw)
        cut = entry_order(self.session.record.cut)
        for entry_id, entry in self.stream:
            if need_from is not None and entry_order(need_from) <= entry_order(entry_id) <= cut:
                self.session.restore(entry_id, entry)
        assert checkpoint.dump(self.session) == raw

    @property
    def agreed(self) -> str:
        return "".join(frame.consensus.agreed or "" for frame in self.frames)

    @property
    def decisions(self) -> list[Decision]:
        return [decision for frame in self.frames for decision in frame.consensus.decisions or ()]

    @property
    def superseded(self) -> int:
        return sum(frame.counts.superseded for frame in self.frames)

    @property
    def released(self) -> list[tuple[int, int, int]]:
        """(member, start, end) of all tokens in frames."""
        return sorted((token.member, token.start, token.end) for frame in self.frames for token in frame.tokens)


@st.composite
def toy_members(draw: st.DrawFn, *, least: int = 2) -> list[Toy]:
    """Members whose models agree often and part often."""
    seed = draw(st.integers(0, 2**20))
    common, count = drawn_chains(seed), draw(st.sampled_from((2, 2, 3, 3, 4)))
    toys = []
    for number in range(max(least, count)):
        part = draw(st.sampled_from((0.2, 0.0, 0.5, 1.0)))
        chains = changed_chains(common, seed + number, part)
        lists = draw(st.sampled_from((20, 20, 3, 2, 1, 0)))
        lists_end, name = draw(often(True, False)), f"{part} of {seed}"
        model = ToyModel(chains, draw(st.sampled_from(CUTS)), lists, lists_end=lists_end, name=name)
        toys.append(Toy(model, draw(st.sampled_from((1.0, 1.0, 1.0, 2.0, 0.5, 0.0))), draw(often(False, True))))
    return toys


timings = st.builds(
    Timing,
    st.lists(
        st.lists(st.tuples(st.integers(0, 3), st.sampled_from((1, 1, 2, 3, 8, AGAIN, 50))), max_size=6), max_size=30
    ),
    st.lists(st.sampled_from((0, 0, 1, 3)), max_size=4),
    st.sampled_from((1, 2, 5, 100)),
)
