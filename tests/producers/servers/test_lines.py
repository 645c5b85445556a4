"""Lines of a stream: bounded, and the same wherever the bytes were cut."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.servers.faults import ServerFault
from producers.servers.lines import MAX_LINE_BYTES, Lines


def lines_of(parts: Iterable[bytes]) -> tuple[list[bytes], bytes]:
    """(the whole lines, the rest) of a stream that comes in these parts."""
    lines = Lines()
    whole = [line for part in parts for line in lines.feed(part)]
    return whole, lines.rest()


@given(st.lists(st.binary(max_size=8).map(lambda data: data.replace(b"x", b"\n"))), st.lists(st.integers(0, 60)))
def test_where_the_bytes_are_cut_changes_no_line(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    # A byte order mark is no part of the first line.
    *whole, rest = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    assert lines_of(data[start:end] for start, end in pairwise(bounds)) == (whole, rest)


def test_a_line_may_have_a_mebibyte_and_not_a_byte_more() -> None:
    most = b"x" * MAX_LINE_BYTES
    assert lines_of([most, b"\n", most[:5]]) == ([most], b"xxxxx")
    lines = Lines()
    assert list(lines.feed(b"kept\n" + most)) == [b"kept"]
    with pytest.raises(ServerFault, match="a line of more than 1 MiB"):
        list(lines.feed(b"x"))


def test_the_lines_before_one_that_is_too_long_come_first() -> None:
    lines = Lines().feed(b"one\ntwo\n" + b"x" * (MAX_LINE_BYTES + 1))
    assert [next(lines), next(lines)] == [b"one", b"two"]
    with pytest.raises(ServerFault):
        next(lines)


def test_the_rest_is_returned_once() -> None:
    lines = Lines()
    list(lines.feed(b"begun"))
    assert (lines.rest(), lines.rest()) == (b"begun", b"")
