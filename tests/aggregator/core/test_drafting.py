"""Whole sessions of members that write one answer: the frames follow from the token stream, whoever computes them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.core.checkpoint import dump, load
from aggregator.core.session import Session
from schemas.frames import encode_frame
from schemas.grid import window_of_entry
from schemas.keys import entry_ms, entry_order, id_before
from tests.support.drafting import drafted


@given(st.integers(0, 1_000_000), st.sampled_from(("", "\n The sky")))
@settings(max_examples=15)
def test_a_loaded_session_goes_on_as_the_one_that_was_dumped(seed: int, prefix: str) -> None:
    """Dumped and loaded after each window: also where a member was just steered, and nothing comes."""
    found = drafted(seed, prefix)
    opening, stream = found.opening, found.stream
    opened = stream[0][0]
    core, other = Session(opening, opened), Session(opening, opened)
    after = 1
    while not core.record.ended:
        window, first = core.record.window, after
        while after < len(stream) and window_of_entry(core.origin_ns, entry_ms(stream[after][0])) <= window:
            after += 1
        closed, again = (session.close(stream[first:after]) for session in (core, other))
        assert encode_frame(again.frame) == encode_frame(closed.frame)
        assert (again.steered, other.progress) == (closed.steered, core.progress)
        other, need_from = load(opening, opened, dump(other))
        for entry_id, raw in stream:
            if need_from and entry_order(id_before(need_from)) < entry_order(entry_id) <= entry_order(other.record.cut):
                other.restore(entry_id, raw)
