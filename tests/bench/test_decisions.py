"""The delays of decisions, from a token stream."""

from __future__ import annotations

from bench.decisions import decision_delays
from schemas.entries import Steered, decode_entry
from schemas.grid import FRAME_RATE_HZ
from tests.support.drafting import drafted


def test_each_steer_that_was_followed_has_a_delay_in_three_parts() -> None:
    """The mark of each steer comes windows after its decision, and the member writes after its mark."""
    stream = drafted(7).stream
    delays = decision_delays(stream)
    steers = sum(isinstance(decode_entry(raw), Steered) for _, raw in stream)
    assert 0 < len(delays) <= steers
    for delay in delays:
        assert 0.0 <= delay.rest <= 1_000 / FRAME_RATE_HZ + 1.0
        assert delay.commit >= -1.0
        assert delay.member >= 0.0
        assert delay.total == delay.rest + delay.commit + delay.member
    assert len({delay.rest for delay in delays}) > 1
