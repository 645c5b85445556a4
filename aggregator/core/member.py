"""One member of a session: its claim, how far its answer has come, and how long it has been silent.

waiting --claim, loading--> loading --tokens--> thinking <--> answering --its mark--> (written) --last byte--> finished
   |                           |                    |             |
   +---------------------------+--------------------+-------------+-------> dropped (with its reason)

A member writes until the mark of its end, and has ended once the last byte of its text is released. Two more states are
shown: held (it pauses at its grant, or is not started because another member's model is not ready) and detached (the
others do not wait for it).
"""

from __future__ import annotations

from bisect import bisect_right

import msgspec

from aggregator.core.release import ReleaseLog
from aggregator.numbers.energy import EnergyMeter
from aggregator.numbers.frontier import UnalignedTokens
from schemas.control import NOT_STARTED
from schemas.entries import Token
from schemas.frames import MemberState
from schemas.grid import FRAME_RATE_HZ, NS_PER_MS
from schemas.rules.claims import ClaimLedger, ClaimVerdict
from schemas.rules.lanes import lane_end
from schemas.sessions import Limits

# Later than any session.
NEVER_NS = 1 << 63


class MemberRecord(msgspec.Struct, array_like=True):
    """All that a member's frames depend on, and nothing else: a checkpoint contains this."""

    state: MemberState = "waiting"
    reason: str | None = None
    claim: str = ""
    next_seq: int = 0
    # It pauses where it has no grant: the claim contains this.
    pauses: bool = False
    # Its producer writes, or will write.
    is_writing: bool = True
    # Finished or dropped.
    ended: bool = False
    # Bytes of its answer, from the first that is not white space: accepted; may be released; released in whole
    # characters. position <= limit <= written, but the limit may pass the end of a member that has ended.
    written: int = 0
    limit: int = 0
    position: int = 0
    thinking_position: int = 0
    unaligned: UnalignedTokens = msgspec.field(default_factory=UnalignedTokens)
    releases: ReleaseLog = msgspec.field(default_factory=ReleaseLog)
    # Accepted tokens of its answer whose last byte is not released.
    buffered_tokens: int = 0
    # When its written end last moved; the windows of the last second in which it did, and where it was before each.
    moved_ns: int = 0
    moved_windows: list[int] = []
    moved_from: list[int] = []
    # A token may be written whose start is not past it (backends that pause).
    grant: int = NOT_STARTED
    is_held: bool = False
    is_detached: bool = False
    meter: EnergyMeter = msgspec.field(default_factory=EnergyMeter)
    silent_beats: int = 0
    # The first-token time-out runs from here: the claim, or the last sign of waiting or loading.
    first_token_from_ns: int = 0
    loading_from_ns: int | None = None
    waiting_from_ns: int | None = None
    # Memory was too small for its model once, and the session made room for it.
    has_starved: bool = False
    # The last sign of loading.
    loading_sign_ns: int = 0
    # There is no slot or no memory for it beside the others: the opening contains this.
    queues: bool = False
    # The others do not begin before its model is ready.
    is_awaited: bool = False
    # A token of it was accepted, and how often it was steered to another text: next_seq counts in that branch.
    begun: bool = False
    branch: int = 0
    # It was steered, and the mark of that is not in the stream yet: its producer cannot know of it. After a pause of
    # the aggregator many windows are closed at once, and the member is not silent in their time.
    awaits_mark: bool = False
    # Where its own text begins: before this byte its answer was given to it. And the end of its last released token.
    base: int = 0
    kept_to: int = 0

    @property
    def has_text(self) -> bool:
        """True once a token with text was accepted."""
        return self.written > self.base

    @property
    def shown_state(self) -> MemberState:
        return "held" if self.is_held else "detached" if self.is_detached else self.state

    def is_expected(self, t_ns: int, limits: Limits, *, in_step: bool) -> bool:
        """True while the others wait for its first text."""
        return t_ns < self.expected_to_ns(limits, in_step=in_step)

    def expected_to_ns(self, limits: Limits, *, in_step: bool) -> int:
        """Until when the others wait for its first text; 0 where they do not, because it thinks or queues behind them.
        In step they also wait for its model, and for a member that waits for another member's model itself."""
        if self.has_text or not self.is_writing or self.queues or self.state == "thinking":
            return 0
        if not self.claim:
            return self.first_token_from_ns + limits.claim_waits_ms * NS_PER_MS
        ready_ns = self.first_token_from_ns + limits.frontier_waits_ms * NS_PER_MS
        if not in_step:
            return ready_ns if self.is_ready else 0
        if self.is_held_back:
            return NEVER_NS
        loaded_ns = self.loading_sign_ns + limits.loading_waits_ms * NS_PER_MS if self.loading_sign_ns else 0
        if self.state == "loading":
            return loaded_ns
        if self.waiting_from_ns is not None:
            waited_ns = self.waiting_from_ns + limits.loading_waits_ms * NS_PER_MS
            # A token without text, such as a line break, ends the wait and is no first text.
            return max(waited_ns, ready_ns) if self.is_ready else waited_ns
        return max(loaded_ns, ready_ns)

    @property
    def is_ready(self) -> bool:
        """True once it is claimed, its model is loaded and has a slot for it; also after its first token."""
        return self.begun or (
            bool(self.claim) and self.state not in ("loading", "dropped") and self.waiting_from_ns is None
        )

    @property
    def is_at_grant(self) -> bool:
        """True where its producer takes no further token before the grant rises."""
        could_write = self.state == "answering" or (self.state == "waiting" and self.is_ready)
        return self.pauses and self.is_writing and could_write and self.written > self.grant

    @property
    def is_held_back(self) -> bool:
        """True where it is ready in step mode, and its producer does not ask its model yet."""
        return self.grant == NOT_STARTED and not self.has_text and self.is_at_grant

    def start(self, start_ns: int) -> None:
        """Its model may be asked from the window that begins at `start_ns`: its first-token time-out begins there."""
        self.grant, self.first_token_from_ns = 0, max(self.first_token_from_ns, start_ns)

    def finish(self, reason: str) -> None:
        """Takes in the mark of its end. While its text is still released it is shown as answering."""
        self.is_writing, self.reason, self.state = False, reason, "answering"

    def complete(self) -> None:
        """Its last text is released, after the mark of its end."""
        self.state, self.ended = "finished", True

    def drop(self, reason: str) -> None:
        self.state, self.reason, self.is_writing, self.ended = "dropped", reason, False, True

    def add_claim(self, entry_id: str, t_ns: int, pauses: bool, *, waits: bool = False) -> None:
        """A producer claims the member; before any text the latest claim wins."""
        if not self.begun:
            self.claim, self.state, self.pauses, self.grant = entry_id, "waiting", pauses, NOT_STARTED
            self.loading_sign_ns = 0
            self.loading_from_ns, self.waiting_from_ns = None, t_ns if waits else None
            self.first_token_from_ns, self.silent_beats = t_ns, 0

    def add_sign(self, claim: str, state: MemberState | None, t_ns: int) -> None:
        """A mark of the winning producer: it waits, or it loads, or neither (None)."""
        if claim != self.claim:
            return
        self.silent_beats = 0
        if self.begun:
            return
        was_preparing = self.state == "loading" or self.waiting_from_ns is not None
        if state is None and not was_preparing:
            return
        if state == "loading":
            self.loading_from_ns, self.loading_sign_ns = self.loading_from_ns or t_ns, t_ns
        else:
            # A member that loads in vain and waits again has waited all the time.
            self.loading_from_ns = None
            self.waiting_from_ns = (self.waiting_from_ns or t_ns) if state else None
        # Once it neither waits nor loads, the first-token time-out begins.
        self.state, self.first_token_from_ns = state or "waiting", t_ns

    def steer(self, end: int, end_ns: int) -> None:
        """It continues, from the end of the window at `end_ns` on, the text that was agreed up to the byte `end`."""
        self.branch, self.next_seq = self.branch + 1, 0
        self.written = end
        self.is_writing, self.reason = True, None
        if self.begun:
            self.moved_ns, self.awaits_mark = end_ns, True
        else:
            self.base = end

    def add_mark_of_steer(self, branch: int, t_ns: int) -> None:
        """From now on its producer can know of the branch."""
        if self.awaits_mark and branch == self.branch:
            self.moved_ns, self.awaits_mark = max(self.moved_ns, t_ns), False

    def judge_token(self, claim: str, seq: int, branch: int) -> ClaimVerdict:
        """Whether the token is the next one of the winning claim; if so it is counted."""
        ledger = ClaimLedger(self.claim, self.next_seq, self.branch)
        verdict = ledger.judge_token(claim, seq, branch)
        if claim == self.claim:
            self.silent_beats = 0
        self.next_seq, self.begun = ledger.next_seq, self.begun or verdict is ClaimVerdict.ACCEPTED
        return verdict

    def locate(self, token: Token, t_ns: int, window: int) -> tuple[int, int]:
        """Takes in an accepted token, whose entry has the time `t_ns`; returns its [start, end) in bytes of its
        lane."""
        if token.lane == "thinking":
            self.state = "thinking"
            start = self.thinking_position
            self.thinking_position = end = lane_end(token, start)
            return start, end
        self.state = "answering"
        start = self.written
        self.written = end = lane_end(token, start)
        if end > start:
            self.moved_ns, self.awaits_mark = t_ns, False
            if not self.moved_windows or self.moved_windows[-1] != window:
                past = bisect_right(self.moved_windows, window - FRAME_RATE_HZ)
                del self.moved_windows[:past], self.moved_from[:past]
                self.moved_windows.append(window)
                self.moved_from.append(start)
        return start, end

    def bytes_since(self, window: int) -> int:
        """How many bytes of its answer came in the windows after `window`, which is at most a second back."""
        index = bisect_right(self.moved_windows, window)
        return self.written - self.moved_from[index] if index < len(self.moved_from) else 0

    def moved_by(self, start_ns: int) -> int:
        """When its written end last moved. While it is held or was just steered, which is no stall, this is `start_ns`,
        now."""
        return max(self.moved_ns, start_ns) if self.is_held or self.awaits_mark else self.moved_ns

    def set_shown_state(
        self, start_ns: int, end_ns: int, *, is_held: bool, is_detached: bool, is_awaited: bool
    ) -> bool:
        """Sets how it is shown from this window's end on; True where that has changed. Time in which it is held counts
        neither as a stall nor for the decay of its energy."""
        if is_held:
            self.moved_ns = max(self.moved_ns, end_ns)
            if not self.is_held:
                self.meter.hold(end_ns)
        elif self.is_held:
            self.moved_ns = max(self.moved_ns, start_ns)
            self.meter.resume(end_ns)
        before = self.is_held, self.is_detached, self.is_awaited
        self.is_held, self.is_detached, self.is_awaited = is_held, is_detached, is_awaited
        return before != (is_held, is_detached, is_awaited)

    def add_beat(self, limits: Limits) -> str | None:
        """Counts a second without an entry of its producer; returns the reason to drop the member, if that was one too
        many."""
        self.silent_beats += 1
        if not self.claim:
            return "nobody serves it" if self.silent_beats >= limits.beats_without_claim else None
        return "producer gone" if self.silent_beats >= limits.beats_without_entry else None

    def timeout_reason(self, t_ns: int, limits: Limits, *, in_step: bool) -> str | None:
        """The reason to drop it at `t_ns`, if it has loaded, waited or not begun for too long."""
        if self.begun or not self.claim or (in_step and self.is_held_back):
            return None
        if self.state == "loading":
            since_ns = self.loading_from_ns or 0
            is_late = t_ns - since_ns >= limits.loading_ms * NS_PER_MS
            return f"still loading after {limits.loading_ms / 1000:g} s (limits.loading_ms)" if is_late else None
        if self.waiting_from_ns is not None and t_ns - self.waiting_from_ns >= limits.waiting_ms * NS_PER_MS:
            return f"still waiting after {limits.waiting_ms / 1000:g} s (limits.waiting_ms)"
        is_late = t_ns - self.first_token_from_ns >= limits.first_token_ms * NS_PER_MS
        within_s = limits.first_token_ms / 1000
        return f"no first token within {within_s:g} s (limits.first_token_ms)" if is_late else None
