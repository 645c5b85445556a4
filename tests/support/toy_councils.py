"""Consensus sessions of toy models under any timing: producers write what their model writes, and follow its steers.

schedule     for each window: which member writes how many tokens, in this order; how late a steer is seen
             window 0: member 1 writes 3;  window 1: member 0 writes 1, member 1 writes 2;  ...
after it     all members write in each window, until the session is over
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
from hypothesis import strategies as st

from aggregator.core import checkpoint
from aggregator.core.session import Session
from producers.member.draft import Branches, Draft
from schemas.control import Steer
from schemas.entries import (
    NO_TOP,
    AnyEntry,
    Cancel,
    Claim,
    Failed,
    Finished,
    Lane,
    Quality,
    Steered,
    Token,
    encode_entry,
    pack_top,
)
from schemas.frames import Decision, Frame, MixtureSpan
from schemas.grid import NS_PER_MS, last_ms_of_window
from schemas.keys import entry_order
from schemas.sessions import ENTRY_VERSION, LONGEST_MS, MAX_TOKENS_LIMIT, Limits, Member, Opening, Sampling
from tests.oracle.toy_models import CUTS, END, Cut, ToyModel, changed_chains, drawn_chains
from tests.support.speeches import often

OPENED = "60000-0"
# More windows than any of these sessions needs.
MOST_WINDOWS = 3_000
# A producer writes its last token a second time.
AGAIN = 0
Event = Literal["thinks", "cancelled", "fails"]


@dataclass(frozen=True)
class Toy:
    """One member: its model and its weight. begins_with_space: its first token has white space before the answer.
    most_tokens: its own limit."""

    model: ToyModel
    weight: float = 1.0
    begins_with_space: bool = False
    most_tokens: int = MAX_TOKENS_LIMIT


@dataclass(frozen=True)
class Timing:
    """schedule: of each window the (member, number of tokens) in the order in which they are written. seen_after: of
    each member, how many windows later it sees a steer. afterwards: how many tokens each member writes in a window once
    the schedule is over. loaded: the windows, modulo 8, after which the session is dumped and loaded.

    claimed_in: of each member, the window of its claim. detach_ms, waits_ms: for how long others wait for a member that
    stalls, and that does not begin. events: (window, member, event)."""

    schedule: Sequence[Sequence[tuple[int, int]]] = ()
    seen_after: Sequence[int] = ()
    afterwards: int = 1
    loaded: frozenset[int] = frozenset()
    claimed_in: Sequence[int] = ()
    detach_ms: int = LONGEST_MS
    waits_ms: int = LONGEST_MS
    events: Sequence[tuple[int, int, Event]] = ()


class ToyProducer:
    """The producer of one member. Its draft is kept by the code of real producers."""

    def __init__(self, number: int, toy: Toy, prefix: str) -> None:
        self.number, self.toy = number, toy
        self.branches = Branches(Draft(prefix))
        self.claim = ""
        self.last: Token | None = None
        self.is_done = self.is_gone = False

    @property
    def branch(self) -> int:
        return self.branches.now.number

    @property
    def draft(self) -> Draft:
        draft = self.branches.now.draft
        assert draft is not None
        return draft

    @property
    def text(self) -> str:
        return "".join(written.text for written in self.draft.written).lstrip(" ")

    def next_entry(self, now_ns: int) -> Token | Finished | None:
        """The next token, or the mark of the end; None after that."""
        if self.is_done or self.is_gone or not self.claim:
            return None
        now, model = self.branches.now, self.toy.model
        if self.draft.spent >= self.toy.most_tokens:
            self.is_done = True
            return Finished(self.number, self.claim, now_ns, len(now.tokens), "length", now.number)
        step = model.step(self.text)
        pieces = model.listed_pieces(step)
        halves = len(now.tokens) - max([token.seq + 1 for token in now.tokens if token.text], default=0)
        if halves < len(step.hidden):
            piece = step.hidden[halves : halves + 1]
            return self._token("answer", "", now_ns, -0.5, "real", pack_top([(piece, -0.5), (b"x", -1.0)]), piece)
        space = " " if self.toy.begins_with_space and not self.text and not step.hidden else ""
        ranked = sorted((pieces or {}).items(), key=lambda one: (-one[1], one[0]))[: model.listed]
        top = pack_top(
            [((space.encode() if piece else b"") + piece[len(step.hidden) :], math.log(p)) for piece, p in ranked]
        )
        logprob = math.log(pieces[step.text.encode()]) if pieces is not None else None
        if step.text == END:
            self.is_done = True
            return Finished(self.number, self.claim, now_ns, len(now.tokens), "stop", now.number, logprob, top)
        quality: Quality = "missing" if pieces is None else "real"
        own = step.text.encode()[len(step.hidden) :] if step.hidden else b""
        return self._token(
            "answer", space + step.text, now_ns, logprob, quality, top if pieces is not None else NO_TOP, own
        )

    def thought(self, now_ns: int) -> Token | None:
        if self.is_done or self.is_gone or not self.claim:
            return None
        return self._token("thinking", "hm", now_ns, None, "missing", NO_TOP)

    def _token(
        self, lane: Lane, text: str, now_ns: int, logprob: float | None, quality: Quality, top: msgspec.Raw,
        piece: bytes = b"",
    ) -> Token:  # fmt: skip
        now = self.branches.now
        self.last = Token(
            self.number, self.claim, len(now.tokens), lane, text, now_ns, now_ns, logprob, quality, piece, top,
            now.number,
        )  # fmt: skip
        self.draft.add(self.last, None)
        now.tokens.append(self.last)
        return self.last

    def follow(self, branch: int, steer: Steer) -> None:
        """Continues the text of a steer in its branch."""
        assert self.branches.turn_to(branch, steer), (self.number, self.branch, self.text, branch, steer)
        assert len(self.text.encode()) == steer.end
        self.last, self.is_done = None, False


class ToyRun:
    """A session from its opening to its final frame, window by window."""

    def __init__(
        self, toys: Sequence[Toy], timing: Timing, max_tokens: int = MAX_TOKENS_LIMIT, *, temperature: float = 0.0,
        seed: int | None = None, prefix: str = "", mixture: int = 0,
    ) -> None:  # fmt: skip
        self.toys, self.timing = toys, timing
        self.frames: list[Frame] = []
        self.stream: list[tuple[str, bytes]] = []
        # Tokens that were written in the member's branch of that time, and the number of those of an earlier branch,
        # repeated ones among these.
        self.accepted: list[Token] = []
        self.stale = 0
        self.steers: list[tuple[int, int, Steer]] = []
        members = tuple(
            Member(f"toy-{number}", toy.weight, sampling=Sampling(min(toy.most_tokens, max_tokens), temperature, seed))
            for number, toy in enumerate(toys)
        )
        waits_ms = timing.waits_ms
        self.opening = Opening(
            ENTRY_VERSION, "s1", "Why?", members, sync="consensus",
            sampling=Sampling(max_tokens, temperature, seed), prefix=prefix,
            limits=Limits(detach_ms=timing.detach_ms, life_ms=LONGEST_MS, frontier_waits_ms=waits_ms,
                          first_token_ms=LONGEST_MS, claim_waits_ms=waits_ms),
            mixture=mixture,
        )  # fmt: skip
        self.session = Session(self.opening, OPENED)
        self.producers = [ToyProducer(number, toy, prefix) for number, toy in enumerate(toys)]
        self._seen_in = [MOST_WINDOWS] * len(toys)
        self._marks: list[Steered] = []
        self._counted = set[tuple[int, int, int]]()

    def to_the_end(self) -> ToyRun:
        while not (self.frames and self.frames[-1].final):
            assert len(self.frames) < MOST_WINDOWS, f"not over: {self.agreed!r}, {self.session.progress}"
            self.window()
        return self

    def window(self) -> Frame:
        """Writes and closes the next window."""
        window = len(self.frames)
        self._follow(window)
        before = [progress.branch for progress in self.session.progress]
        closed = self.session.close(self._entries(window))
        assert not closed.dead
        self.frames.append(closed.frame)
        for producer, branch, progress in zip(self.producers, before, self.session.progress, strict=True):
            if progress.branch > branch:
                assert progress.steer is not None
                assert progress.branch == branch + 1, "a member is steered once in a window"
                self.steers.append((producer.number, progress.branch, progress.steer))
                self._marks.append(Steered(producer.number, progress.branch, progress.steer.start, progress.steer.text))
                self._seen_in[producer.number] = window + 1 + _of(self.timing.seen_after, producer.number)
        if window % 8 in self.timing.loaded:
            self._load()
        return closed.frame

    def _follow(self, window: int) -> None:
        for producer, progress in zip(self.producers, self.session.progress, strict=True):
            if progress.branch > producer.branch and window >= self._seen_in[producer.number]:
                assert progress.steer is not None
                producer.follow(progress.branch, progress.steer)
                assert self.agreed.startswith(producer.text), (self.agreed, producer.text)

    def _entries(self, window: int) -> list[tuple[str, bytes]]:
        ms, begun = last_ms_of_window(self.session.origin_ns, window), len(self.stream)

        def write(entry: AnyEntry | None) -> str:
            entry_id = f"{ms}-{len(self.stream) - begun}"
            if entry is not None:
                self.stream.append((entry_id, encode_entry(entry)))
            if isinstance(entry, Token):
                if entry.branch < branches[entry.member]:
                    self.stale += 1
                elif not self.session.progress[entry.member].ended and (key := _key(entry)) not in self._counted:
                    self._counted.add(key)
                    self.accepted.append(entry)
            return entry_id

        now_ns, branches = ms * NS_PER_MS, [progress.branch for progress in self.session.progress]
        for mark in self._marks:
            write(mark)
        self._marks = []
        for producer in self.producers:
            if window >= _of(self.timing.claimed_in, producer.number) and not producer.claim:
                producer.claim = write(Claim(producer.number, now_ns))
        for number, count in self._planned(window):
            producer = self.producers[number]
            if count == AGAIN:
                write(producer.last)
            for _ in range(count):
                write(producer.next_entry(now_ns))
        for number, event in [(n % len(self.toys), event) for at, n, event in self.timing.events if at == window]:
            producer = self.producers[number]
            if event == "thinks":
                write(producer.thought(now_ns))
            elif not producer.is_gone:
                producer.is_gone = bool(producer.claim) or event == "cancelled"
                if event == "cancelled":
                    write(Cancel((number,)))
                elif producer.is_gone:
                    write(Failed(number, producer.claim, now_ns, "the model failed", producer.branch))
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
    def mixture(self) -> list[MixtureSpan]:
        return [span for frame in self.frames for span in frame.consensus.mixture or ()]

    @property
    def superseded(self) -> int:
        return sum(frame.counts.superseded for frame in self.frames)

    @property
    def released(self) -> list[tuple[int, int, int]]:
        """(member, start, end) of all tokens with text in answers in frames."""
        tokens = [token for frame in self.frames for token in frame.tokens if token.lane == "answer"]
        return sorted((token.member, token.start, token.end) for token in tokens if token.end > token.start)


def _key(token: Token) -> tuple[int, int, int]:
    return token.member, token.branch, token.seq


def _of(values: Sequence[int], number: int) -> int:
    return values[number % len(values)] if values else 0


def drawn_toy(seed: int, number: int, part: float, cut: Cut, most_tokens: int = MAX_TOKENS_LIMIT) -> Toy:
    """The member of this number of a council whose common chains are drawn from the seed."""
    model = ToyModel(changed_chains(drawn_chains(seed), seed + number, part), cut, name=f"{part} of {seed}")
    return Toy(model, most_tokens=most_tokens)


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


_schedules = st.lists(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from((1, 1, 2, 3, 8, AGAIN, 50))), max_size=6), max_size=30
)
_lags = st.lists(st.sampled_from((0, 0, 1, 3)), max_size=4)
timings = st.builds(Timing, _schedules, _lags, st.sampled_from((1, 2, 5, 100)))
# Members that come late, stall, think, fail, or are cancelled.
hard_timings = st.builds(
    Timing,
    _schedules,
    st.lists(st.sampled_from((0, 0, 1, 3, 9)), max_size=4),
    st.sampled_from((1, 1, 2, 5)),
    claimed_in=st.lists(st.sampled_from((0, 0, 0, 2, 9, 30)), max_size=4),
    detach_ms=st.sampled_from((34, 50, 100)),
    waits_ms=st.sampled_from((1, 50, 200)),
    events=st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 3), st.sampled_from(("thinks", "thinks", "cancelled", "fails"))),
        max_size=5,
    ),
)
