"""A session in a terminal: its lines, for terminals of any width, and the summary at its end."""

from __future__ import annotations

import io
from typing import Any, Literal

import msgspec
import pytest
from rich.console import Console

from council.command.ask_summary import AskSummary, print_end
from council.command.awaited import Awaited
from council.command.lanes import Lanes
from council.command.what_if_command import effect_table
from schemas.frames import Decision, Frame, MemberFrame, MemberState
from schemas.rules.effect import effect_of
from tests.support.frames import changed_frame, made_frame

_LONG_NAME = "a-model-server.example/some-family:70b-instruct-q4_K_M"
_PARTED: dict[str, Any] = {"compares": "place", "diverged_at_bytes": 48}


def member(state: MemberState = "answering", model: str = "ngram:word-3", **fields: Any) -> MemberFrame:
    found = MemberFrame(model, state, 1.0, 1_000.0, 0.5, 3, 0, "so", "", None)
    return msgspec.structs.replace(found, **fields)


def frame_of(
    *members: MemberFrame, window: int = 0, source: Literal["logprobs", "fallback"] = "logprobs", **fields: Any
) -> Frame:
    values: dict[str, Any] = {"mode": "single", "diversity_index": 0.25, "di_source": source, "tier": "hybrid"}
    return made_frame(window, members or (member(), member()), **values | fields)


def drawn(*frames: Frame, width: int = 100, height: int = 40) -> list[str]:
    """The lines in a terminal of this size after these frames."""
    awaited = Awaited()
    lanes = Lanes(awaited)
    for frame in frames:
        awaited.add(frame)
        lanes.add(frame)
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(lanes.drawn(width, height))
    return capture.get().splitlines()


def between(*frames: Frame) -> str:
    """The line under the head."""
    return drawn(*frames)[1].rstrip()


AGREEMENT: dict[str, Any] = {
    "agreement": 0.91, "agreement_source": "logprobs", "compares": "next", "interference": "constructive",
}  # fmt: skip
AGREED = frame_of(**AGREEMENT)
APART = frame_of(agreement=0.12, agreement_source="logprobs", interference="destructive", **_PARTED)


def test_no_agreement_yet_is_shown_only_before_the_first_agreement() -> None:
    assert between(frame_of()) == "no agreement yet"
    assert between(AGREED, frame_of()) == "agreement not measured · never parted"
    one_left = frame_of(member(), member("finished"))
    assert between(AGREED, APART, one_left) == "one member is left · parted at byte 48"
    assert between(AGREED, one_left) == "one member is left · never parted"
    assert between(one_left) == "one member is left"
    assert between(APART, frame_of(member("finished"), member("finished"))) == "all have finished · parted at byte 48"
    assert between(APART, frame_of(member("dropped"), member("finished"))) == "all have ended · parted at byte 48"


def test_an_end_that_needs_attention_is_shown_in_its_lane() -> None:
    warned = frame_of(member("finished", reason="the model ended without an answer"), member("finished", reason="stop"))
    lines = "\n".join(drawn(warned))
    assert "the model ended without an answer" in lines
    assert "stop" not in lines


def test_the_agreement_and_its_source_are_shown() -> None:
    assert between(AGREED) == "agreement 0.91 · constructive · the same text so far"
    resonant = changed_frame(AGREED, resonance=True)
    assert between(resonant) == "agreement 0.91 · resonance · the same text so far"
    for source, words in (("mixed", "in part by text"), ("text", "by text")):
        line = between(changed_frame(APART, agreement_source=source))
        assert line == f"agreement 0.12 · destructive · parted at byte 48 · {words}"


def test_the_mode_the_lag_and_the_skew_are_shown() -> None:
    in_step = frame_of(mode="step", sync_lag_ms=16.4, arrival_skew_ms=480.0, **AGREEMENT)
    assert between(in_step).endswith(" · the same text so far · shown 16 ms, written 480 ms apart")
    assert "step · hybrid tier" in drawn(in_step)[0]


def test_waits_are_shown_below_the_text() -> None:
    """In words, and updated no more often than a user can read."""
    ahead = member("held", buffered_tokens=12)
    lines = drawn(frame_of(ahead, member("detached", buffered_tokens=1)))
    below = [line.strip("╰─╯ ") for line in lines if "╰" in line]
    assert below == [
        "pauses for the others · 12 tokens wait",
        "no longer waited for · 1 token waits",
    ]
    flicker = [frame_of(ahead, member()), *(frame_of(member(), member(), window=window) for window in range(1, 12))]
    assert "12 tokens wait" in "".join(drawn(*flicker))
    assert "wait" not in "".join(drawn(*flicker, frame_of(member(), member(), window=12)))
    assert " finished " in "".join(drawn(*flicker, frame_of(member("finished"), member(), window=12, final=True)))
    assert all(len(line) <= 46 for line in drawn(frame_of(ahead, member("detached")), width=46))


def test_a_single_member_has_no_line_of_comparison() -> None:
    assert drawn(frame_of(member()))[1].startswith("╭")


@pytest.mark.parametrize("width", [46, 50, 60, 70, 80, 100, 200])
@pytest.mark.parametrize("names", [("ngram:word-3", "ngram:char-6"), ("tiny", _LONG_NAME)])
@pytest.mark.parametrize("remote", [False, True])
def test_the_lines_fit_the_terminal(width: int, names: tuple[str, str], remote: bool) -> None:
    """One line for the ensemble, one for the comparison, and titles in which only long names are shortened; no line
    wraps."""
    members = [member(model=name, remote=remote, energy=0.38) for name in names]
    fields = {"agreement": 1.0, "agreement_source": "mixed", "interference": "constructive", **_PARTED}
    lines = drawn(frame_of(*members, window=60_000, source="fallback", **fields), width=width)
    assert all(len(line) <= width for line in lines)
    head, middle, *lanes = lines
    assert head.startswith("energy █")
    assert " 0.50  diversity unknown" in head
    assert middle.startswith("agreement 1.00 · constructive")
    titles = [line for line in lanes if line.startswith("╭")]
    assert len(titles) == 2
    for title in titles:
        # Without room for all of them, the pace is left out; no number is ever cut.
        assert " answering " in title
        paces = (" 0.38  1000 tokens/s", " 0.38  1000 tok/s") if width >= 60 else (" 0.38  1000 tok/s", " 0.38")
        assert title.rstrip("─╮ ").endswith(paces)
    # Bars of one length, wherever they are: they can be compared.
    assert len({sum(title.count(cell) for cell in "█▏▎▍▌▋▊▉·") for title in titles}) == 1


def test_in_a_narrow_terminal_the_tier_is_left_out_first_and_the_mode_last() -> None:
    heads = [drawn(frame_of(window=600), width=width)[0].rstrip() for width in (100, 70, 60, 50)]
    assert [head.partition("diversity 0.25")[2].strip() for head in heads] == [
        "single · hybrid tier · 10.0 s", "single · 10.0 s", "single", "",
    ]  # fmt: skip


def test_the_bar_never_wraps() -> None:
    head, middle, *_ = drawn(AGREED, width=24)
    assert head.startswith("energy █")
    assert middle.startswith("agreement")


def test_titles_do_not_change_their_bars_with_each_state_and_number() -> None:
    def bar(state: MemberState, tokens_per_s: float) -> str:
        title = next(
            line for line in drawn(frame_of(member(state, tokens_per_s=tokens_per_s)), width=60) if "╭" in line
        )
        return title.partition("█")[2].partition(" ")[0]

    assert len({bar(state, pace) for state in ("held", "answering", "finished") for pace in (0.0, 99.0, 1_000.0)}) == 1


def summary_of(*frames: Frame) -> AskSummary:
    summary = AskSummary("s1", "hybrid")
    for frame in frames:
        summary.add(frame)
    return summary


def ended(*frames: Frame) -> str:
    """The output after these frames, in a terminal with colours."""
    summary = summary_of(*frames)
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="truecolor")
    with console.capture() as capture:
        print_end(console, summary)
    return capture.get()


EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202eevil"


def test_control_characters_of_texts_names_and_reasons_do_not_reach_the_terminal() -> None:
    """They may be of another person's recording. Escape sequences clear the screen, or write to the clipboard."""
    shown = member("dropped", name=EVIL, text=EVIL, reason=EVIL)
    loading = member("loading", name=EVIL, awaited=True)
    waiting = [frame_of(shown, loading, window=window, **AGREEMENT) for window in (0, 60)]
    assert "waiting for" in "".join(drawn(*waiting))
    effects = io.StringIO()
    Console(file=effects, width=200).print(effect_table({EVIL: effect_of("a b c", f"a b {EVIL}")}))
    consensus = AskSummary("s1", "hybrid", "consensus")
    consensus.add(changed_frame(frame_of(shown), agreed=EVIL, decisions=(), mode="consensus"))
    ends = io.StringIO()
    for summary in (consensus, summary_of(frame_of(shown))):
        print_end(Console(file=ends, width=200), summary)
    for written in ("\n".join(drawn(*waiting)), effects.getvalue(), ends.getvalue()):
        assert "evil" in written
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & {*written}


def test_the_summary_of_one_text_has_its_partings_without_an_empty_line() -> None:
    summary = AskSummary("s1", "hybrid", "consensus")
    decision = Decision(0, 4, "unanimous")
    summary.add(changed_frame(frame_of(), agreed="text", decisions=(decision,), mode="consensus"))
    written = io.StringIO()
    print_end(Console(file=written, width=100), summary)
    assert written.getvalue().splitlines()[-1] == "The council agreed on 4 bytes, and the drafts never parted."


def test_the_summary_has_the_byte_at_which_the_members_parted() -> None:
    parted_later = changed_frame(APART, diverged_at_bytes=90)
    assert ended(AGREED, APART, parted_later, frame_of()).endswith("\nThe members parted at byte 90.\n")
    assert ended(AGREED, frame_of()).endswith("\nThe members never parted.\n")
    assert "parted" not in ended(frame_of())
    assert "parted" not in ended(frame_of(member()))
    # Their texts were let go before they could be compared.
    assert "parted" not in ended(AGREED, frame_of(compares="place"))


def test_names_are_printed_as_they_are() -> None:
    """Numbers in them are not coloured, and brackets are not markup."""
    text = ended(frame_of(member(model="ngram:word-3"), member(model="a[b]c:7")))
    assert "ngram:word-3: answering, 0 tokens" in text
    assert "a[b]c:7: answering, 0 tokens" in text
    assert "session s1: 0.0 s, 1 frames, single" in text


def test_resonance_is_counted_in_whole_windows() -> None:
    summary = AskSummary("s1", "hybrid")
    for resonance in (False, True, True, True, False, True):
        summary.add(frame_of(resonance=resonance))
    assert summary.as_object()["resonance_ms"] == 67


def test_the_largest_lag_and_skew_are_null_until_there_are_values() -> None:
    summary = AskSummary("s1", "hybrid", "free")
    summary.add(frame_of())
    named = ("sync", "largest_sync_lag_ms", "largest_arrival_skew_ms")
    assert [summary.as_object()[name] for name in named] == ["free", None, None]
    for lag, skew in ((17.0, 300.0), (33.0, 20.0), (0.0, 900.0)):
        summary.add(frame_of(sync_lag_ms=lag, arrival_skew_ms=skew))
    summary.add(frame_of())
    assert [summary.as_object()[name] for name in named] == ["free", 33.0, 900.0]
