"""`council ask --sync consensus`: the council's text on standard output, and all else beside it."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path
from typing import Any

import pytest

from council import TurboEnsemble
from council.command.agreed_text import AgreedText
from council.command.ask_summary import AskSummary
from council.settings.schema import load_settings
from schemas.frames import ConsensusFrame, Decision, Frame, MemberFrame
from schemas.rules.partings import joined_decisions
from schemas.sessions import SessionRequest
from tests.support.council_command import COUNCIL, council, environment
from tests.support.frames import changed_frame, made_frame
from tests.support.project import ROOT
from tests.support.redis_servers import RedisServer
from tests.support.role_processes import Roles

MODELS = ("ngram:word-3", "ngram:char-6")


# Linux has this file; macOS does not.
FULL_DISK = Path("/dev/full")


def _assert_a_full_disk_is_named(arguments: list[str], url: str) -> None:
    with FULL_DISK.open("w") as full:
        failed = subprocess.run(
            [*COUNCIL, *arguments], env=environment(url), cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True,
            timeout=60, check=False,
        )  # fmt: skip
    sentence = "The output cannot be written (No space left on device): make room for it, or write it elsewhere."
    assert (failed.returncode, failed.stderr) == (1, f"council: {sentence}\n")


def _decisions(shown: list[dict[str, Any]]) -> list[Decision]:
    return [Decision(**{**one, "against": tuple(one["against"])}) for one in shown]


def frame_of(window: int, agreed: str, *decisions: Decision, final: bool = False) -> Frame:
    members = tuple(MemberFrame(name, "answering", 0.5, 1.0, None, 0, 0, agreed, "", None) for name in "ab")
    frame = made_frame(window, members, mode="consensus", final=final)
    return changed_frame(frame, consensus=ConsensusFrame(agreed, decisions))


async def test_standard_output_is_the_agreed_text_alone(redis: RedisServer, roles: Roles) -> None:
    """Also where it is a file or a pipe; --json has the frames with their decisions. Python has the same text."""
    roles.ready("aggregator")
    for model in MODELS:
        roles.ready("producers", model, "--tokens-per-s", "200")
    asked = ("ask", "What is a list?", "--models", ",".join(MODELS), "--sync", "consensus")
    options = ("--max-tokens", "15", "--temperature", "0")
    plain = council(*asked, *options, url=redis.url)
    assert plain.code == 0, plain.said
    plain.assert_said("The council agreed on", "the drafts parted")
    if FULL_DISK.exists():
        _assert_a_full_disk_is_named([*asked, *options], redis.url)
    *frames, summary = council(*asked, *options, "--json", url=redis.url).lines
    agreed = "".join(frame["agreed"] for frame in frames)
    assert agreed
    assert plain.out == (agreed if agreed.endswith("\n") else f"{agreed}\n")
    assert (summary["agreed"], summary["sync"], summary["mode"]) == (agreed, "consensus", "consensus")
    decisions = [decision for frame in frames for decision in frame["decisions"]]
    assert [one["at"] for one in decisions] == [0, *(one["end"] for one in decisions[:-1])]
    assert decisions[-1]["end"] == len(agreed.encode())
    assert summary["partings"]["count"] == sum(one["kind"] in ("certain", "estimate") for one in decisions) > 0
    async with TurboEnsemble(settings=load_settings(None, {"redis_url": redis.url})) as ensemble:
        request = SessionRequest("What is a list?", MODELS, sync="consensus", max_tokens=15, temperature=0.0)
        session = await ensemble.open(request)
        for _ in range(2):
            assert [frame async for frame in session.frames()][-1].final
            assert (session.agreed, session.advice) == (agreed, "")
            found = [(one.at, one.end, one.kind, one.by) for one in session.decisions]
        assert found == [(one.at, one.end, one.kind, one.by) for one in joined_decisions(_decisions(decisions))]


def test_text_is_written_as_it_is_agreed_and_once() -> None:
    """After Redis lost the session's end the text is read again: what stays the same is not written again."""
    out = io.StringIO()
    text = AgreedText(out)
    for agreed in ("The sky", "", " is\tblue"):
        text.add(frame_of(0, agreed))
    assert out.getvalue() == "The sky is\tblue"
    text.begin()
    text.add(frame_of(0, "The sky"))
    text.add(frame_of(1, " is\tblue."))
    assert out.getvalue() == "The sky is\tblue."
    text.begin()
    text.add(frame_of(0, "The sea"))
    assert out.getvalue() == "The sky is\tblue.\n\nThe sea"
    text.end()
    assert out.getvalue().endswith("The sea\n")


def test_a_terminal_receives_no_control_characters() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    AgreedText(out).add(frame_of(0, "a\x1b[2J\n\tb\x9b\u202e"))
    assert out.getvalue() == "a [2J\n\tb "


@pytest.mark.parametrize(("lost", "words"), [(9, "b lost 9 of 10 partings"), (8, "")])
def test_the_summary_advises_against_a_member_that_lost_nearly_all_partings(lost: int, words: str) -> None:
    summary = AskSummary("s1", "mid", "consensus")
    for n in range(10):
        against = (1,) if n < lost else (0,)
        summary.add(frame_of(n, "word ", Decision(5 * n, 5 * n + 5, "certain", 0, 0.6, "no", 0.4, 0.5, against)))
    about, *others = summary.consensus_lines
    assert "agreed on 50 bytes; the drafts parted 10 times (20.0 in 100 bytes); " in about
    assert [words in line for line in others] == ([True] if words else [])
