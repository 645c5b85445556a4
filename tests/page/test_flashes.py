"""Nothing on the page flashes more than three times a second (WCAG 2.3.1): a flash is a pair of opposed changes of
luminance by a tenth of the whole or more.

    luminance   .9 ─╮    ╭──╮    ╭─        up and down by .1 or more: one flash
                .1  ╰────╯  ╰────╯
                    |-- a second --|       three at most
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from playwright.sync_api import Page

from tests.page.conftest import Open

WINDOWS_A_SECOND = 60
MOST_FLASHES = 3
LEAST_CHANGE = 0.1
# A quarter of 341 x 256 pixels counts as a large area.
LARGE_PX = 341 * 256 / 4
FIELD_PX = 11 * 16
# The number of windows of one kind of input, before the opposite follows.
PERIODS = (1, 2, 3, 5, 8, 12, 20, 30, 45)

# The lights of the drive in each window, for input that is fully constructive and fully destructive in turns.
_DRIVEN = """async (period) => {
    const { Drive } = await import("/static/stage/drive.js");
    const drive = new Drive(2);
    const lights = { spread: [], measured: [], cord: [], ring: [], light: [], present: [] };
    for (let window = 0; window < 600; window += 1) {
        const isUp = Math.floor(window / period) % 2 === 0;
        const energies = isUp ? [1, 1] : [0, 0];
        const running = [isUp, isUp];
        const agreement = isUp ? 1 : window % 2 ? 0 : NaN;
        drive.step({ agreement, wave: isUp ? 1 : 0, resonance: isUp, energies, running });
        for (const name of Object.keys(lights)) {
            const found = drive[name];
            lights[name].push(typeof found === "number" ? found : found[0]);
        }
    }
    return lights;
}"""

# The braid drawn from the same input, window by window, for longer than it takes to cross the screen: the mean relative
# luminance of small fields, in a part of the screen as wide as the standard's 341 pixels.
_DRAWN = """async ([period, memberCount, isTogether]) => {
    const { Columns } = await import("/static/record/columns.js");
    const { Stage } = await import("/static/stage/stage.js");
    document.getElementById("session").hidden = false;
    const canvases = Object.fromEntries(["braid", "energy", "diversity", "disagreement", "lag"].map((name) => [
        name, document.getElementById(name === "braid" ? name : `${name}-plot`),
    ]));
    const columns = new Columns(Array.from({ length: memberCount }, (_, index) => `m${index}`));
    const stage = new Stage(canvases, { onPoint() {}, onLeave() {}, onPick() {} });
    stage.begin({ columns });
    const ground = [13, 15, 20];
    const linear = Array.from({ length: 256 }, (_, value) => {
        const share = value / 255;
        return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    const { braid } = canvases;
    const brush = braid.getContext("2d");
    const [across, down] = [11, 16];
    const fields = [];
    for (let window = 0; window < 780; window += 1) {
        const isUp = isTogether || Math.floor(window / period) % 2 === 0;
        const against = Array.from({ length: memberCount }, (_, index) => index).filter((index) => index % 3 !== 0);
        const decision = { at: 0, end: 1, kind: "certain", by: 0, share: 0, against };
        const frame = {
            decisions: isTogether ? (window % period === 0 ? [decision] : []) : null,
            window_index: window, energy: isUp ? 1 : 0, wave: isUp ? 1 : 0, agreement: isUp ? 1 : 0,
            interference: isUp ? "constructive" : "destructive", resonance: isUp, diverged_at_bytes: null, tokens: [],
            members: Array.from({ length: memberCount }, () => ({ energy: isUp ? 1 : 0.02, state: "answering" })),
        };
        columns.add(frame);
        stage.add(frame);
        while (stage.draw(window, false, false));
        if (window < 540) continue;
        const { data, width, height } = brush.getImageData(400, 0, 341, braid.height);
        const sums = [];
        for (let top = 0; top + down <= height; top += down) {
            for (let left = 0; left + across <= width; left += across) {
                let sum = 0;
                let count = 0;
                for (let y = top; y < top + down; y += 2) {
                    for (let x = left; x < left + across; x += 2) {
                        const at = (y * width + x) * 4;
                        const cover = data[at + 3] / 255;
                        const shown = (index) => data[at + index] * cover + ground[index] * (1 - cover);
                        const channel = (index) => linear[Math.round(shown(index))];
                        sum += 0.2126 * channel(0) + 0.7152 * channel(1) + 0.0722 * channel(2);
                        count += 1;
                    }
                }
                sums.push(sum / count);
            }
        }
        fields.push(sums);
    }
    return fields;
}"""


def flashes(luminances: list[float]) -> list[int]:
    """The windows in which a flash is complete: the luminance has changed by a tenth, and back by a tenth."""
    found, turns = [], 0
    low = high = luminances[0]
    rising: bool | None = None
    for window, light in enumerate(luminances):
        low, high = min(low, light), max(high, light)
        is_up, is_down = light - low >= LEAST_CHANGE, high - light >= LEAST_CHANGE
        if (is_up and rising is not True) or (is_down and rising is not False):
            rising = is_up
            low = high = light
            turns += 1
            if turns % 2 == 0:
                found.append(window)
        elif rising is True:
            low = high = max(high, light) if light >= high else high
            low = light
        elif rising is False:
            high = light
    return found


def most_in_a_second(windows: list[int]) -> int:
    return max((sum(start <= other < start + WINDOWS_A_SECOND for other in windows) for start in windows), default=0)


def test_the_flash_counter_counts_flashes() -> None:
    """It counts two flashes a second over five seconds, and none if the changes are too small."""
    waves = [0.5 if (window // 15) % 2 else 0.1 for window in range(300)]
    assert len(flashes(waves)) in (9, 10)
    assert most_in_a_second(flashes(waves)) == 2
    assert flashes([0.5 if window % 2 else 0.41 for window in range(300)]) == []
    assert most_in_a_second(flashes([float(window % 2) for window in range(300)])) == 30


@pytest.fixture
def page(open_page: Open) -> Page:
    found: Page = open_page(1280, 800, color_scheme="dark")
    return found


@pytest.mark.parametrize("period", PERIODS)
def test_no_light_of_the_drive_makes_more_than_three_flashes_a_second(page: Page, period: int) -> None:
    lights: dict[str, list[float]] = page.evaluate(_DRIVEN, period)
    for name, values in lights.items():
        assert most_in_a_second(flashes(values)) <= MOST_FLASHES, name
        assert max(abs(after - before) for before, after in pairwise(values)) <= 0.6 / WINDOWS_A_SECOND + 1e-9, name
    # The lights do change: constant lights would pass the check above.
    assert max(lights["cord"]) - min(lights["cord"]) >= min(0.99, 0.0099 * period)


@pytest.mark.parametrize("count", [2, 6])
@pytest.mark.parametrize("period", [1, 6, 15, 30, 100])
def test_the_braid_makes_no_more_than_three_flashes_a_second(page: Page, period: int, count: int) -> None:
    """At fixed positions of the screen, past which the picture moves."""
    makes_few_flashes(page.evaluate(_DRAWN, [period, count, False]))


@pytest.mark.parametrize("period", [12, 30])
def test_the_cord_makes_no_more_than_three_flashes_a_second(page: Page, period: int) -> None:
    """Two strands of three leave it at each decision, as far as a strand ever goes."""
    makes_few_flashes(page.evaluate(_DRAWN, [period, 3, True]))


def makes_few_flashes(fields: list[list[float]]) -> None:
    assert max(max(each) for each in fields) > 0.1
    flashing = [field for field in zip(*fields, strict=True) if most_in_a_second(flashes(list(field))) > MOST_FLASHES]
    assert len(flashing) * FIELD_PX < LARGE_PX
