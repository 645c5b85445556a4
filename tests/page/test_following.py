"""The page loses no text and repeats none: a stub of the socket sends what a slow or reconnecting client receives."""

from __future__ import annotations

from typing import Any

import pytest

from tests.page.conftest import Open

# Follows a session: each GET returns the next of `texts`, as [window, text], and each socket sends the next list of
# frames, as [window, text]. Returns the text that the page shows at the end, and the number of GETs.
_FOLLOWED = """async ([texts, sockets]) => {
    const { Following } = await import("/static/council/follow.js");
    const { Record } = await import("/static/record/record.js");
    const member = (text) => ({ model: "one", text, thinking: "" });
    let asked = 0;
    window.fetch = async () => {
        const [window_index, text] = texts[Math.min(asked, texts.length - 1)];
        asked += 1;
        return { ok: true, json: async () => ({ session: "s", window_index, members: [member(text)] }) };
    };
    let opened = 0;
    window.WebSocket = class {
        constructor() {
            const frames = sockets[opened] ?? [];
            opened += 1;
            setTimeout(() => {
                for (const [window_index, text] of frames) {
                    if (this.isClosed) return;
                    const frame = { window_index, diverged_at_bytes: null, members: [member(text)], tokens: [] };
                    this.onmessage({ data: JSON.stringify(frame) });
                }
                if (opened === sockets.length) this.onclose({ target: this, code: 1000, reason: "" });
            });
        }
        close() { this.isClosed = true; }
    };
    let record = null;
    return new Promise((resolve) => {
        new Following("s", {
            onText: (session) => record ? record.begin(session) : record = new Record(session),
            onFrame: (frame) => record.add(frame),
            onAway() {}, onBack() {},
            onEnd: () => resolve([record.answers[0].text, asked]),
        });
    });
}"""


@pytest.mark.parametrize(
    ("texts", "sockets", "shown", "asked"),
    [
        # First the last ten seconds again, then new frames.
        ([[9, "abcdefghij"]], [[[7, "h"], [8, "i"], [9, "j"], [10, "k"]]], "abcdefghijk", 1),
        # Much time passed between GET and the socket: both are repeated.
        ([[9, "abcdefghij"], [40, "abcdefghijk"]], [[[30, ""]], [[39, ""], [40, "k"], [41, "l"]]], "abcdefghijkl", 2),
        # A frame that was merged for a slow client, of the windows 6 to 11: only a part of it is in the text.
        (
            [[9, "abcdefghij"], [11, "abcdefghijkl"]],
            [[[5, "f"], [11, "ghijkl"]], [[5, "f"], [11, "ghijkl"], [12, "m"]]],
            "abcdefghijklm", 2,
        ),
        # The first frame is a merged one.
        ([[9, "abcdefghij"], [11, "abcdefghijkl"]], [[[11, "ghijkl"]], [[11, "l"], [12, "m"]]], "abcdefghijklm", 2),
        # A merged frame that begins after the text's end: all of it is new.
        ([[9, "abcdefghij"]], [[[9, "j"], [14, "klmno"]]], "abcdefghijklmno", 1),
        # No text was released yet.
        ([[-1, ""]], [[[3, "abcd"], [4, "e"]]], "abcde", 1),
    ],
)  # fmt: skip
def test_no_text_is_lost_or_doubled(
    open_page: Open, texts: list[Any], sockets: list[Any], shown: str, asked: int
) -> None:
    assert open_page().evaluate(_FOLLOWED, [texts, sockets]) == [shown, asked]
