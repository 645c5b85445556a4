"""One member of a session: who writes it, how far it is, and how long it has been silent.

waiting --claim, loading--> loading --tokens--> thinking <--> answering --its mark--> (ended) --last byte--> finished
   |                           |                    |             |
   +---------------------------+--------------------+-------------+-------> dropped (with its reason)

It writes until its mark of the end; it runs until the last byte of its text is out. Two more states are shown: held (it
pauses at its grant, or has not started because another member's model is not ready) and detached (the others did not
wait for it).
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
    """All that a member's frames depend on, and nothing else: this is what a checkpoint holds of it."""

    state: MemberState = "waiting"
    reason: str | None = None
    claim: str = ""
    next_seq: int = 0
    # It pauses where it has no grant: the claim says so.
    pauses: bool = False
    # Its producer is at work or still to come; and the last byte of its text is not out.
    is_writing: bool = True
    is_running: bool = True
    # Bytes of its answer, from its first that is not white space: accepted, let out, and gone out in whole characters.
    # position <= limit <= written, but where it has ended and the front is past it.
    written: int = 0
    limit: int = 0
    position: int = 0
    thinking_position: int = 0
    kept: UnalignedTokens = msgspec.field(default_factory=UnalignedTokens)
    passing: ReleaseLog = msgspec.field(default_factory=ReleaseLog)
    # Accepted tokens of its answer whose last byte has not gone out.
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
    patience_from_ns: int = 0
    loading_from_ns: int | None = None
    waiting_from_ns: int | None = None
    # It found no memory once, and the session made room for it.
    has_starved: bool = False
    # The last sign of loading.
    loading_sign_ns: int = 0
    # There is no slot or no memory for it beside the others: the opening says so.
    queues: bool = False
    # The others do not begin before its model is ready.
    is_awaited: bool = False

    @property
    def shown_state(self) -> MemberState:
        return "held" if self.is_held else "detached" if self.is_detached else self.state

    def is_expected(self, t_ns: int, limits: Limits, *, in_step: bool) -> bool:
        """True while the others wait for its first text."""
        return t_ns < self.expected_to_ns(limits, in_step=in_step)

    def expected_to_ns(self, limits: Limits, *, in_step: bool) -> int:
        """Until when the others wait for its first text; 0 where they do not: it thinks, or queues behind them. Only in
        step do they wait for its model, too; and for a member that waits for such a one itself."""
        if self.written or not self.is_writing or self.queues or self.state == "thinking":
            return 0
        if not self.claim:
            return self.patience_from_ns + limits.claim_waits_ms * NS_PER_MS
        ready_ns = self.patience_from_ns + limits.frontier_waits_ms * NS_PER_MS
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
        """True once its producer has it, with its model loaded and a slot for it; and when it has written."""
        return self.next_seq > 0 or (
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
        return self.grant == NOT_STARTED and not self.written and self.is_at_grant

    def start(self, start_ns: int) -> None:
        """Its model may be asked from the window on that begins at `start_ns`: patience with it begins there."""
        self.grant, self.patience_from_ns = 0, max(self.patience_from_ns, start_ns)

    def finish(self, reason: str) -> None:
        """The mark of its end. While its text is still going out it is shown as answering, whatever it wrote last."""
        self.is_writing, self.reason, self.state = False, reason, "answering"

    def complete(self) -> None:
        """The last of its text is out after the mark of its end."""
        self.state, self.is_running = "finished", False

    def drop(self, reason: str) -> None:
        self.state, self.reason, self.is_writing, self.is_running = "dropped", reason, False, False

    def add_claim(self, entry_id: str, t_ns: int, pauses: bool, *, waits: bool = False) -> None:
        """A producer claims the member; before any text the latest claim wins."""
        ledger = ClaimLedger(self.claim, self.next_seq)
        if ledger.add_claim(entry_id):
            self.claim, self.state, self.pauses, self.grant = entry_id, "waiting", pauses, NOT_STARTED
            self.loading_sign_ns = 0
            self.loading_from_ns, self.waiting_from_ns = None, t_ns if waits else None
            self.patience_from_ns, self.silent_beats = t_ns, 0

    def add_sign(self, claim: str, state: MemberState | None, t_ns: int) -> None:
        """The winning producer says that it is alive, and perhaps that it waits or loads."""
        if claim != self.claim:
            return
        self.silent_beats = 0
        if self.next_seq:
            return
        is_over = state is None and (self.state == "loading" or self.waiting_from_ns is not None)
        if state is None and not is_over:
            return
        if state == "loading":
            self.loading_from_ns, self.loading_sign_ns = self.loading_from_ns or t_ns, t_ns
        else:
            # Whoever loads in vain and waits again has waited all the time; who loads begins to load.
            self.loading_from_ns = None
            self.waiting_from_ns = (self.waiting_from_ns or t_ns) if state else None
        # With neither any more, patience with the first token begins now.
        self.state, self.patience_from_ns = state or "waiting", t_ns

    def judge_token(self, claim: str, seq: int) -> ClaimVerdict:
        """Whether the token is the next of the winning claim; if so it counts as taken."""
        ledger = ClaimLedger(self.claim, self.next_seq)
        verdict = ledger.judge_token(claim, seq)
        if claim == self.claim:
            self.silent_beats = 0
        self.next_seq = ledger.next_seq
        return verdict

    def locate(self, token: Token, t_ns: int, window: int) -> tuple[int, int]:
        """Takes in an accepted token, whose entry has the time `t_ns`; its [start, end) in bytes of its lane."""
        if token.lane == "thinking":
            self.state = "thinking"
            start = self.thinking_position
            self.thinking_position = end = lane_end(token, start)
            return start, end
        self.state = "answering"
        start = self.written
        self.written = end = lane_end(token, start)
        if end > start:
            self.moved_ns = t_ns
            if not self.moved_windows or self.moved_windows[-1] != window:
                past = bisect_right(self.moved_windows, window - FRAME_RATE_HZ)
                del self.moved_windows[:past], self.moved_from[:past]
                self.moved_windows.append(window)
                self.moved_from.append(start)
        return start, end

    def bytes_since(self, window: int) -> int:
        """The bytes of its answer that came in the windows after `window`, which is at most a second back."""
        index = bisect_right(self.moved_windows, window)
        return self.written - self.moved_from[index] if index < len(self.moved_from) else 0

    def moved_by(self, start_ns: int) -> int:
        """When its written end last moved; while it is held, that is no fault of its own: now, at `start_ns`."""
        return max(self.moved_ns, start_ns) if self.is_held else self.moved_ns

    def set_shown_state(
        self, start_ns: int, end_ns: int, *, is_held: bool, is_detached: bool, is_awaited: bool
    ) -> bool:
        """How it is shown from this window's end on; False where that is as before. Time in which it is held counts
        for no stall and no decay."""
        if is_held:
            self.moved_ns = max(self.moved_ns, end_ns)
            if not self.is_held:
                self.meter.hold(end_ns)
        elif self.is_held:
            self.moved_ns = max(self.moved_ns, start_ns)
            self.meter.let_go(end_ns)
        shown = self.is_held, self.is_detached, self.is_awaited
        self.is_held, self.is_detached, self.is_awaited = is_held, is_detached, is_awaited
        return shown != (is_held, is_detached, is_awaited)

    def add_beat(self, limits: Limits) -> str | None:
        """One more second without a word of its producer; the reason to drop it, if that was one too many."""
        self.silent_beats += 1
        if not self.claim:
            return "nobody serves it" if self.silent_beats >= limits.beats_without_claim else None
        return "producer gone" if self.silent_beats >= limits.beats_without_entry else None

    def lost_patience(self, t_ns: int, limits: Limits, *, in_step: bool) -> str | None:
        """The reason to drop it at `t_ns`, if its first token is too long in coming."""
        if self.next_seq or not self.claim or (in_step and self.is_held_back):
            return None
        if self.state == "loading":
            since_ns = self.loading_from_ns or 0
            late = t_ns - since_ns >= limits.loading_ms * NS_PER_MS
            return f"still loading after {limits.loading_ms / 1000:g} s" if late else None
        if self.waiting_from_ns is not None and t_ns - self.waiting_from_ns >= limits.waiting_ms * NS_PER_MS:
            return f"still waiting after {limits.waiting_ms / 1000:g} s"
        late = t_ns - self.patience_from_ns >= limits.first_token_ms * NS_PER_MS
        return f"no first token within {limits.first_token_ms / 1000:g} s" if late else None
