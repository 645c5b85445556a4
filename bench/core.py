"""The pure core alone, without Redis and without a clock: what closing a window costs, beside msgpack's share of it.

Three second-long rhythms of the same six members, each window by window through aggregator.session.Session:

    no token       nobody writes: energies decay, the frontier rests
    no move        every member but one writes; that one holds the frontier where it is
    frontier move  every member writes; what they say is compared anew in each window
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from aggregator.session import Session, StreamEntry
from bench.report import Report, quantile, table_of
from bench.speech import TOP_K, drawn_pieces
from schemas.entries import Claim, Token, encode_entry, pack_top
from schemas.frames import Frame, decode_frame, encode_frame
from schemas.grid import FRAME_RATE_HZ, NS_PER_MS, window_start_ns
from schemas.sessions import Member, Opening
