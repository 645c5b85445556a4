"""Keeping in step: how far the members' text may be released, so that all are shown at the same position.

    member 0   |The sky is blue, and the          written 24   text past the front is held back
    member 1   |A clear sky|                      written 11   the least: the front is here
    member 2   |... (thinks)                      does not step: released as it arrives, joins at or past the front
               0           ^ front

The stepping set are the members that wait for each other: those that answer, or are expected to begin soon, and are not
behind the front. The front is the least that a writing one of them has written; it never falls. A member leaves the set
when it thinks, loads, ends with all its text released, or detaches: it is the least, holds others back, and has written
nothing for Limits.detach_ms. A member outside the set neither waits nor is waited for.

A backend that pauses is granted a little more than the front: it generates in step, and is not only shown so. No member
begins alone: one whose model loads or waits steps with 0 bytes, so the front stays at 0, and models that pause are not
started; for Limits.loading_waits_ms at most.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from aggregator.core.member import NEVER_NS, MemberRecord
from schemas.control import NOT_STARTED
from schemas.grid import FRAME_RATE_HZ, NS_PER_MS
from schemas.sessions import Limits

# A grant leads the front by a twentieth of what the slowest member wrote in the last second: 50 ms of its pace.
_LEAD_DIVISOR = 20
_LEAST_LEAD_BYTES = 1


class Stepping(msgspec.Struct, array_like=True):
    """The front in bytes of every stepping member's answer, and the stepping set in the members' order. From the byte
    `since` on, the texts of all in the set were released together: what was released before a member joined did not
    wait for it."""

    members: list[int] = []
    front: int = 0
    since: int = 0

    def advance(self, members: Sequence[MemberRecord], start_ns: int, end_ns: int, limits: Limits) -> None:
        """Takes in the window [start_ns, end_ns) of a session: updates the set, the front, and every member's limit."""
        self.update_set(members, start_ns, end_ns, limits)
        writing = [members[index].written for index in self.members if members[index].is_writing]
        if writing:
            self.front = max(self.front, min(writing))
        in_step = self.members if writing else ()
        for index, member in enumerate(members):
            limit = self.front if index in in_step else member.written
            if limit > member.limit:
                member.limit = limit

    def update_set(
        self, members: Sequence[MemberRecord], start_ns: int, end_ns: int, limits: Limits, *, rejoins: bool = False
    ) -> None:
        """Updates the set at the end of the window [start_ns, end_ns). `rejoins`: a member whose draft is complete
        joins again too, because it has a vote."""
        self._start(members, start_ns, end_ns, limits)
        before = self.members
        self.members = self._in_step_now(members, start_ns, end_ns, limits, rejoins)
        self._detach(members, start_ns, end_ns - limits.detach_ms * NS_PER_MS)
        if not set(self.members).issubset(before):
            self.since = max([members[index].limit for index in self.members])

    def _start(self, members: Sequence[MemberRecord], start_ns: int, end_ns: int, limits: Limits) -> None:
        """Starts the members whose backends pause, once no member is expected whose model is not ready."""
        held_back = [member for member in members if member.pauses and member.grant == NOT_STARTED]
        if not held_back:
            return
        if all(member.is_ready or not member.is_expected(end_ns, limits, in_step=True) for member in members):
            for member in held_back:
                member.start(start_ns)

    def leave(self, ended: Sequence[int]) -> None:
        """Removes these members from the set."""
        if ended:
            self.members = [index for index in self.members if index not in ended]

    def _in_step_now(
        self, members: Sequence[MemberRecord], start_ns: int, end_ns: int, limits: Limits, rejoins: bool
    ) -> list[int]:
        """The set with the members that join it, without those that no longer belong to it."""
        found = []
        for index, member in enumerate(members):
            was_in = index in self.members
            if not member.is_writing:
                # Its last text is released with the others'.
                stays = not member.ended and (was_in or (rejoins and member.written >= self.front))
            elif not member.has_text:
                stays = member.is_expected(end_ns, limits, in_step=True) and (was_in or not self.front)
            else:
                has_moved = end_ns - member.moved_by(start_ns) < limits.detach_ms * NS_PER_MS
                stays = member.state == "answering" and (was_in or (member.written >= self.front and has_moved))
            if stays:
                found.append(index)
        return found

    def _detach(self, members: Sequence[MemberRecord], start_ns: int, stalled_ns: int) -> None:
        """Removes the members that hold others back and have not moved since `stalled_ns`."""
        while True:
            writing = [index for index in self.members if members[index].is_writing]
            stalled = [index for index in writing if members[index].moved_by(start_ns) <= stalled_ns]
            if not stalled:
                return
            least = min([members[index].written for index in writing])
            stalled = [i for i in stalled if members[i].written == least and members[i].has_text]
            if not stalled or not any(members[index].written > least for index in self.members):
                return
            self.leave(stalled)

    def grant(self, members: Sequence[MemberRecord], window: int) -> None:
        """Raises the grants of writing members whose backends pause, and that have started, to a little past the
        front."""
        paced = [member for member in members if member.is_writing and member.pauses and member.grant != NOT_STARTED]
        if not paced:
            return
        since = window - FRAME_RATE_HZ
        paces = [members[index].bytes_since(since) for index in self.members if members[index].is_writing]
        lead = max(_LEAST_LEAD_BYTES, min(paces, default=0) // _LEAD_DIVISOR)
        for member in paced:
            member.grant = max(member.grant, self.front + lead)

    def grant_to(self, members: Sequence[MemberRecord], end: int) -> None:
        """Raises the grants of writing members whose backends pause, and that have started, to the byte `end`."""
        for member in members:
            if member.is_writing and member.pauses and member.grant != NOT_STARTED:
                member.grant = max(member.grant, end)

    def next_change_ns(self, members: Sequence[MemberRecord], end_ns: int, limits: Limits) -> int:
        """When time alone may next change the set, after `end_ns`."""
        stall_ns = limits.detach_ms * NS_PER_MS
        times = []
        for index, member in enumerate(members):
            if member.is_held:
                # A held member steps from the next window on.
                times += [] if index in self.members else [end_ns + 1]
            elif member.is_writing and member.has_text and not member.awaits_mark and index in self.members:
                times.append(member.moved_ns + stall_ns)
        return min((t_ns for t_ns in times if t_ns > end_ns), default=NEVER_NS)
