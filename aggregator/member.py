"""One member of a session: who writes it, how far it is, and how long it has been silent.

waiting --claim, loading--> loading --tokens--> thinking <--> answering --> finished
   |                           |                    |             |
   +---------------------------+--------------------+-------------+-------> dropped (with its reason)
"""

from __future__ import annotations

import msgspec

from aggregator.energy import EnergyMeter
from aggregator.frontier import KeptTokens
from schemas.claims import ClaimLedger, Verdict
from schemas.entries import Token
from schemas.frames import MemberState
from schemas.grid import NS_PER_MS
from schemas.lanes import lane_end
from schemas.sessions import Limits


class MemberRecord(msgspec.Struct, array_like=True):
    """All that a member's frames depend on, and nothing else: this is what a checkpoint holds of it."""

    state: MemberState = "waiting"
    reason: str | None = None
    claim: str = ""
    next_seq: int = 0
    # Released ends of its lanes in bytes; the answer's counts from its first byte that is not white space.
    position: int = 0
    thinking_position: int = 0
    kept: KeptTokens = msgspec.field(default_factory=KeptTokens)
    meter: EnergyMeter = msgspec.field(default_factory=EnergyMeter)
    silent_beats: int = 0
    # The first-token time-out runs from here: the claim, or the last sign of waiting or loading.
    patience_from_ns: int = 0
    loading_from_ns: int | None = None
    waiting_from_ns: int | None = None
    # It found no memory once, and the session made room for it.
    has_starved: bool = False

    @property
    def is_running(self) -> bool:
        return self.state not in ("finished", "dropped")

    @property
    def is_about_to_begin(self) -> bool:
        """True before its first text where its producer neither waits for the model nor loads it."""
        return bool(self.claim) and self.state == "waiting" and self.waiting_from_ns is None

    def finish(self, reason: str) -> None:
        self.state, self.reason = "finished", reason

    def drop(self, reason: str) -> None:
        self.state, self.reason = "dropped", reason

    def add_claim(self, entry_id: str, t_ns: int) -> None:
        """A producer claims the member; before any text the latest claim wins."""
        ledger = ClaimLedger(self.claim, self.next_seq)
        if ledger.add_claim(entry_id):
            self.claim, self.state = entry_id, "waiting"
            self.loading_from_ns, self.waiting_from_ns, self.patience_from_ns, self.silent_beats = None, None, t_ns, 0

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
            self.loading_from_ns = self.loading_from_ns or t_ns
        else:
            # Whoever loads in vain and waits again has waited all the time; who loads begins to load.
            self.loading_from_ns = None
            self.waiting_from_ns = (self.waiting_from_ns or t_ns) if state else None
        # With neither any more, patience with the first token begins now.
        self.state, self.patience_from_ns = state or "waiting", t_ns

    def judge_token(self, claim: str, seq: int) -> Verdict:
        """Whether the token is the next of the winning claim; if so it counts as taken."""
        ledger = ClaimLedger(self.claim, self.next_seq)
        verdict = ledger.judge_token(claim, seq)
        if claim == self.claim:
            self.silent_beats = 0
        self.next_seq = ledger.next_seq
        return verdict

    def place(self, token: Token) -> tuple[int, int]:
        """Releases the token's text; its [start, end) in bytes of its lane."""
        if token.lane == "thinking":
            self.state = "thinking"
            start = self.thinking_position
            self.thinking_position = end = lane_end(token, start)
        else:
            self.state = "answering"
            start = self.position
            self.position = end = lane_end(token, start)
        return start, end

    def add_beat(self, limits: Limits) -> str | None:
        """One more second without a word of its producer; the reason to drop it, if that was one too many."""
        self.silent_beats += 1
        if not self.claim:
            return "nobody serves it" if self.silent_beats >= limits.beats_without_claim else None
        return "producer gone" if self.silent_beats >= limits.beats_without_entry else None

    def lost_patience(self, t_ns: int, limits: Limits) -> str | None:
        """The reason to drop it at `t_ns`, if its first token is too long in coming."""
        if self.next_seq or not self.claim:
            return None
        if self.state == "loading":
            since_ns = self.loading_from_ns or 0
            late = t_ns - since_ns >= limits.loading_ms * NS_PER_MS
            return f"still loading after {limits.loading_ms / 1000:g} s" if late else None
        if self.waiting_from_ns is not None and t_ns - self.waiting_from_ns >= limits.waiting_ms * NS_PER_MS:
            return f"still waiting after {limits.waiting_ms / 1000:g} s"
        late = t_ns - self.patience_from_ns >= limits.first_token_ms * NS_PER_MS
        return f"no first token within {limits.first_token_ms / 1000:g} s" if late else None
