"""The payloads of error events: a stable code, a sentence, and whether the session goes on. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.events import FRAME_BUDGET_MS, MOST_MESSAGE_CHARS, ErrorPayload, SentError, Severity
from schemas.frames import Frame

# For clients that connect later. A session has at most six members and four tiers, so it never reaches this with
# MEMBER_DROPPED and TIER_FELL. DEAD_LETTERS and FRAME_OVERRUN may come with each frame: half a second of them is kept.
_MOST_OF_A_CODE = 32

# The reason of a member that a user stopped.
_AS_WISHED = "cancelled"


def troubles(frame: Frame, names: Sequence[str], was_complete: Sequence[bool], tier_before: str) -> list[ErrorPayload]:
    """What went wrong in this frame: members that dropped, a fall to a lower tier, entries that did not decode."""
    found = [
        _member_dropped(frame, index, names[index])
        for index, member in enumerate(frame.members)
        if member.state == "dropped" and not was_complete[index]
    ]
    if tier_before and frame.tier != tier_before:
        found.append(
            ErrorPayload(
                "warning",
                "TIER_FELL",
                f"Memory ran out: the session goes on in the {frame.tier} tier.",
                "orchestrator",
                {"before": tier_before, "tier": frame.tier},
                recoverable=True,
            )
        )
    if frame.counts.dead_letters:
        found.append(
            ErrorPayload(
                "warning",
                "DEAD_LETTERS",
                "Entries of the token stream did not decode; they were put aside.",
                "orchestrator",
                {"count": frame.counts.dead_letters},
                recoverable=True,
            )
        )
    return found


def with_error(errors: list[SentError], error: SentError) -> list[SentError]:
    """The errors, oldest first, and this one. Of each code the newest are kept."""
    same = [one for one in errors if one.code == error.code]
    surplus = same[: len(same) + 1 - _MOST_OF_A_CODE] if len(same) >= _MOST_OF_A_CODE else []
    return [*(one for one in errors if one not in surplus), error]


def _member_dropped(frame: Frame, index: int, name: str) -> ErrorPayload:
    """The session goes on where another member answers."""
    member = frame.members[index]
    reason = member.reason or "it dropped"
    none_answers = all(other.state == "dropped" for other in frame.members)
    severity: Severity = "info" if reason == _AS_WISHED else "error" if none_answers else "warning"
    return ErrorPayload(
        severity,
        "MEMBER_DROPPED",
        _shortened(f"{member.display_name}: {reason}"),
        "model",
        {"modelId": name, "model": member.model},
        recoverable=not none_answers,
    )


def overrun(elapsed_ms: float, frame_number: int) -> ErrorPayload:
    """A frame took longer to compose than it lasts."""
    return ErrorPayload(
        "warning",
        "FRAME_OVERRUN",
        f"A frame took longer than {FRAME_BUDGET_MS:g} ms to compose.",
        "decipher",
        {"elapsedMs": round(elapsed_ms, 3), "frameNumber": frame_number},
        recoverable=True,
    )


def session_failed(reason: str) -> ErrorPayload:
    """A session ended without its final frame."""
    message = _shortened(reason or "The session ended without a final frame.")
    return ErrorPayload("critical", "SESSION_FAILED", message, "orchestrator", recoverable=False)


def decipher_failed(reason: str) -> ErrorPayload:
    """DECIPHER cannot compose the session's further frames."""
    message = _shortened(f"The events of this session end here, its frames go on: {reason}")
    return ErrorPayload("critical", "DECIPHER_FAILED", message, "decipher", recoverable=False)


def _shortened(message: str) -> str:
    return message if len(message) <= MOST_MESSAGE_CHARS else f"{message[: MOST_MESSAGE_CHARS - 1]}…"
