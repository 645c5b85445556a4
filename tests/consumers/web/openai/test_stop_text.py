"""Stop texts, whatever the parts in which a text arrives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consumers.web.openai.stop_text import StopText

LETTERS = st.text("ab c", max_size=24)


@given(parts=st.lists(LETTERS, max_size=8), stops=st.lists(st.text("ab c", min_size=1, max_size=4), max_size=3))
def test_a_text_ends_before_the_stop_text_that_is_complete_first_in_whatever_parts_it_arrives(
    parts: list[str], stops: list[str]
) -> None:
    stop, text = StopText(stops), "".join(parts)
    shown = []
    for part in parts:
        shown.append(stop.add(part))
        # What is shown can never be a part of a stop text: it is a beginning of the result.
        assert text.startswith("".join(shown))
    shown.append(stop.end())
    found = [(text.find(one) + len(one), text.find(one)) for one in stops if one in text]
    assert "".join(shown) == (text[: min(found)[1]] if found else text)
    assert stop.is_found == bool(found)


def test_what_cannot_begin_a_stop_text_is_shown_at_once() -> None:
    stop = StopText(["END", "\n\n"])
    assert [stop.add(part) for part in ("It is E", "NORMOUS\n", "x\n", "\ny")] == ["It is ", "ENORMOUS", "\nx", ""]
    assert stop.is_found
    assert stop.add("more") == ""
    assert stop.end() == ""


def test_without_stop_texts_nothing_is_held_back() -> None:
    stop = StopText([])
    assert (stop.add("a"), stop.end(), stop.is_found) == ("a", "", False)
