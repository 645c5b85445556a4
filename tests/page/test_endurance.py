"""A page that is open for long: its memory, its number of elements, and the cost of a frame do not grow."""

from __future__ import annotations

from playwright.sync_api import CDPSession, Page, expect

from tests.page.conftest import Open
from tests.page.people import answer, follows, hold_at, is_at_window, released
from tests.support.scripted_sessions import FrameWriter
from tests.support.waiting import wait_until

SIX = tuple(f"test:{name}" for name in ("one", "two", "three", "four", "five", "six"))
# Ten thousand windows of six members; each writes the most tokens that are allowed, 8,192.
WINDOWS = 10_000
WARM = 2_000
MOST_TOKENS = 8_192
BATCH = 250


def used_bytes(session: CDPSession) -> int:
    """The size of the page's heap and arrays after a garbage collection."""
    session.send("HeapProfiler.collectGarbage")
    usage = session.send("Runtime.getHeapUsage")
    return int(usage["usedSize"]) + int(usage.get("backingStorageSize", 0))


def count_frames(page: Page) -> None:
    """Counts every frame that the socket receives, from the next load of the page on."""
    page.add_init_script("""
        window.frames_received = 0;
        const Socket = window.WebSocket;
        window.WebSocket = class extends Socket {
            constructor(...where) {
                super(...where);
                this.addEventListener("message", () => { window.frames_received += 1; });
            }
        };
    """)


def play(page: Page, recorder: FrameWriter, upto: int) -> None:
    """Writes windows up to `upto`, no faster than the page receives them."""
    while recorder.count < upto:
        for _ in range(min(BATCH, upto - recorder.count)):
            window = recorder.count - 1
            words = f"w{window % 1_000:03} " if window % 12 else f"w{window % 1_000:03}\n"
            shown = released(SIX, words, window) if window < MOST_TOKENS else released(SIX, "", window)
            recorder.write(1, **shown, agreement=(window % 100) / 100, compares="place", jsd=0.5)
        least = recorder.count
        wait_until(
            lambda least=least: page.evaluate("() => window.frames_received") >= least, "the page has every frame"
        )


def test_ten_thousand_frames_of_six_members_need_no_more_memory_than_their_texts(
    redis: object, open_page: Open
) -> None:
    recorder = FrameWriter(redis, models=SIX)  # type: ignore[arg-type]
    recorder.announce()

    def counting() -> Page:
        page: Page = open_page()
        count_frames(page)
        page.reload()
        return page

    page = follows(recorder, counting)
    session = page.context.new_cdp_session(page)
    play(page, recorder, WARM)
    is_at_window(page, WARM - 12)
    before = used_bytes(session)
    play(page, recorder, WINDOWS)
    is_at_window(page, WINDOWS - 12)
    assert page.evaluate("() => window.frames_received") == WINDOWS
    grown = used_bytes(session) - before
    # Only the texts have grown: 49,000 tokens with their letters, about 100 bytes each.
    assert grown < 100 * 6 * MOST_TOKENS, f"{grown / 1e6:.1f} MB"
    elements = page.evaluate("() => document.querySelectorAll('*').length")
    assert elements < 8_000, "invisible tokens have no elements"
    assert answer(page).text_content() == "".join(
        f"w{window % 1_000:03} " if window % 12 else f"w{window % 1_000:03}\n" for window in range(MOST_TOKENS)
    )
    # A window far back is shown, with all its tokens.
    hold_at(page, 4_000)
    expect(answer(page)).to_contain_text("w999")
    assert len(answer(page).inner_text().split()) == 4_000
    expect(answer(page).locator(".token").last).to_have_text("w999 ")
    drawn = page.evaluate("""() => new Promise((resolve) => {
        const costs = [];
        const draw = () => {
            const from = performance.now();
            document.getElementById("time").value = 4_000 + costs.length;
            document.getElementById("time").dispatchEvent(new Event("input"));
            requestAnimationFrame(() => {
                costs.push(performance.now() - from);
                if (costs.length < 60) draw();
                else resolve(costs.sort((one, other) => one - other)[30]);
            });
        };
        draw();
    })""")
    print(f"grown {grown / 1e6:.1f} MB, {elements} elements, {drawn:.1f} ms from one held window to the next")
