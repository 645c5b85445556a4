"""How far each member's text is released, and how the member is shown, window by window: the slow way.

    window_ends() --steps_of()--> for each window: the stepping set, the front, released ends, grants, states, mode

With `sync: step` the members of S, the stepping set, are released together, up to the least of those that still write:

    member 0   |The| sky| is|          the least: its end is the front
    member 1   |The sky| is| gr|ey|    gr is released up to the front, ey is held back
    member 2   |A|  (not in S)         released as it writes
                           ^ front

With `sync: free` all text is released as it is written. Times are absolute nanoseconds, ends are bytes of an answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from schemas.frames import MemberState, Mode
from schemas.grid import NS_PER_MS
from schemas.sessions import Limits, Opening
from tests.oracle.members import WHITE_SPACE, Accepted, MemberHistory, Stream, WindowEnd, opening_of, window_ends

# A second: the lead is counted over so many windows, of which this one is the last.
LEAD_WINDOWS = 60
Span = tuple[int, int]


@dataclass(frozen=True)
class Step:
    """The end of a window, after release. From `limits` to `held` there is one item for each member.

    limits: how far it may be released; they never fall. released: the last boundary of its characters at or before
    that. grants: how far it may write, -1 before it is started. moved_ns: when its end last moved, or it was last held.
    held: the windows up to this one at whose start it was shown as held, as spans. since: the byte from which on the
    stepping members were released together.
    """

    window: WindowEnd
    mode: Mode
    stepping: frozenset[int]
    front: int
    limits: tuple[int, ...]
    released: tuple[int, ...]
    grants: tuple[int, ...]
    states: tuple[MemberState, ...]
    moved_ns: tuple[int, ...]
    held: tuple[tuple[Span, ...], ...]
    since: int = 0

    @property
    def running(self) -> list[int]:
        return [number for number, state in enumerate(self.states) if state not in ("finished", "dropped")]

    def awaits(self, number: int) -> bool:
        """True where the other stepping members do not begin before this member's model is ready."""
        return number in self.stepping and len(self.running) > 1 and not self.window.members[number].ready

    def released_tokens(self, number: int) -> list[Accepted]:
        """All thinking, and the tokens of the answer that end at or before the released end."""
        accepted, end = self.window.members[number].accepted, self.released[number]
        return [one for one in accepted if one.token.lane == "thinking" or one.end <= end]

    def released_text(self, number: int) -> str:
        """The white space before an answer is released with its first byte, but a token of white space alone by
        itself."""
        tokens = [one for one in self.window.members[number].accepted if one.token.lane == "answer"]
        if not self.released[number]:
            return "".join(one.token.text for one in tokens if one.end == 0)
        text = "".join(one.token.text for one in tokens)
        answer = text.lstrip(WHITE_SPACE)
        return text[: len(text) - len(answer)] + answer.encode()[: self.released[number]].decode()


def steps_of(stream: Stream, windows: int) -> Iterator[Step]:
    """The step of every window, up to the window in which no member runs any more."""
    opening = opening_of(stream)
    step = _before_the_first(opening)
    for window in window_ends(stream, windows):
        step = step_after(step, window, opening)
        # A member that is written waits for members that still write: else its text would be held back for ever.
        assert step.running or not window.writing
        assert window.writing or not step.running
        yield step


def step_after(before: Step, window: WindowEnd, opening: Opening) -> Step:
    in_step, numbers = opening.sync == "step", range(len(window.members))
    written = [len(member.answer) for member in window.members]
    moved_ns = tuple(_moved_ns(before, window, number) for number in numbers)
    stepping = stepping_set(before, window, opening.limits, moved_ns) if in_step else set()
    joined = stepping - before.stepping
    since = max(before.limits[number] for number in stepping) if joined else before.since
    pace = [written[number] for number in stepping if window.members[number].writing]
    front = max(before.front, min(pace, default=0))
    limits = tuple(
        max(before.limits[number], front if pace and number in stepping else written[number]) for number in numbers
    )
    released = tuple(_released(window.members[number].answer, limits[number]) for number in numbers)
    finished = {number for number in numbers if window.members[number].ended and released[number] == written[number]}
    stepping -= finished
    running = [number for number in numbers if number not in finished and window.members[number].state != "dropped"]
    grant = front + lead_of(window, stepping)
    grants = tuple(_grant(before, window, number, grant) if in_step else -1 for number in numbers)
    states = [
        shown_state(
            member,
            is_finished=number in finished,
            is_past_its_grant=in_step and member.pauses and written[number] > grants[number],
            is_held_back=in_step and member.held_back,
            is_behind=in_step and written[number] > 0 and number not in stepping and len(running) > 1,
        )
        for number, member in enumerate(window.members)
    ]
    return Step(
        window=window,
        mode=mode_of(before.mode, running, stepping),
        stepping=frozenset(stepping),
        front=front,
        limits=limits,
        released=released,
        grants=grants,
        states=tuple(states),
        moved_ns=moved_ns,
        held=tuple(_held(before, window, number) for number in numbers),
        since=since,
    )


def _before_the_first(opening: Opening) -> Step:
    zeros = (0,) * len(opening.members)
    together: Mode = "step" if opening.sync == "step" else "free"
    return Step(
        window=WindowEnd(-1, 0, "", Counter(), tuple(MemberHistory() for _ in opening.members), opening.tier),
        mode=together if len(opening.members) > 1 else "single",
        stepping=frozenset(range(len(opening.members)) if opening.sync == "step" else ()),
        front=0,
        limits=zeros,
        released=zeros,
        grants=(-1,) * len(opening.members),
        states=("waiting",) * len(opening.members),
        moved_ns=zeros,
        held=((),) * len(opening.members),
    )


# --- the stepping set -------------------------------------------------------------------------------------------------


def stepping_set(before: Step, window: WindowEnd, limits: Limits, moved_ns: Sequence[int]) -> set[int]:
    """S, with the members that are written and have text to be released."""
    written = [len(member.answer) for member in window.members]
    expected, stalled = window.expected(limits, in_step=True), []
    eligible = set(expected)
    for number, member in enumerate(window.members):
        if member.writing and member.state == "answering" and written[number] > 0:
            eligible.add(number)
        if member.ended and number in before.stepping and before.released[number] < written[number]:
            eligible.add(number)
        if window.end_ns - moved_ns[number] >= limits.detach_ms * NS_PER_MS:
            stalled.append(number)
    stepping = set(before.stepping) & eligible
    for number in eligible.intersection(window.writing):
        has_paused = written[number] > 0 and number in stalled
        if written[number] >= before.front and not has_paused:
            stepping.add(number)
    while True:
        least = min((written[number] for number in stepping if window.members[number].writing), default=0)
        last = [number for number in stepping if window.members[number].writing and written[number] == least]
        leaving = {number for number in last if written[number] > 0 and number in stalled}
        if not leaving or not any(written[number] > least for number in stepping):
            return stepping
        stepping -= leaving


def _moved_ns(before: Step, window: WindowEnd, number: int) -> int:
    """When the member's end last moved, or it was last shown as held."""
    tokens = [one for one in window.members[number].accepted if one.token.lane == "answer" and one.end > one.start]
    held_ns = before.window.end_ns if before.states[number] == "held" else 0
    return max(before.moved_ns[number], held_ns, tokens[-1].entry_ns if tokens else 0)


def shown_state(
    member: MemberHistory, *, is_finished: bool, is_past_its_grant: bool, is_held_back: bool, is_behind: bool
) -> MemberState:
    if member.ended:
        return "finished" if is_finished else "answering"
    if is_held_back:
        return "held"
    if member.state == "answering" and is_past_its_grant:
        return "held"
    return "detached" if member.state == "answering" and is_behind else member.state


def mode_of(before: Mode, running: Sequence[int], stepping: set[int]) -> Mode:
    if not running:
        return before
    if len(stepping) > 1:
        return "step"
    return "single" if len(running) == 1 else "free"


# --- how far text is released, and how far a member may write ---------------------------------------------------------


def _released(answer: bytes, limit: int) -> int:
    """The last boundary of a character of the answer at or before the limit."""
    return len(answer[:limit].decode(errors="ignore").encode())


def lead_of(window: WindowEnd, stepping: set[int]) -> int:
    """How far past the front members may write: a twentieth of what the slowest stepping member wrote in the last
    second."""
    counts = [
        sum(
            one.end - one.start
            for one in window.members[number].accepted
            if one.token.lane == "answer" and one.window > window.index - LEAD_WINDOWS
        )
        for number in stepping
        if window.members[number].writing
    ]
    return max(1, min(counts, default=0) // 20)


def _grant(before: Step, window: WindowEnd, number: int, end: int) -> int:
    member = window.members[number]
    earlier = before.grants[number] if before.window.members[number].claim == member.claim else -1
    may_write = member.writing and member.pauses and member.was_started
    return max(earlier, end) if may_write else earlier


# --- held time --------------------------------------------------------------------------------------------------------


def _held(before: Step, window: WindowEnd, number: int) -> tuple[Span, ...]:
    """The spans before this window's end in which it was held: the windows at whose start it was shown as held."""
    spans, start_ns = before.held[number], before.window.end_ns
    if before.states[number] != "held":
        return spans
    if spans and spans[-1][1] == start_ns:
        return (*spans[:-1], (spans[-1][0], window.end_ns))
    return (*spans, (start_ns, window.end_ns))


def held_between(spans: Sequence[Span], after_ns: int, until_ns: int) -> int:
    """How much of the time from `after_ns` to `until_ns` lies in the spans, in ns."""
    return sum(max(0, min(end, until_ns) - max(start, after_ns)) for start, end in spans)
