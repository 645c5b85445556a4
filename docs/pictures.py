"""Draws the pictures of docs/maths.md: `make pictures`, or `python docs/pictures.py [FOLDER]` where the project is
installed.

The aggregator's core computes every curve, bar and box from the small streams and lists of docs/examples.py. The files
contain no date and no random id, so two runs draw the same bytes. Each picture has its own background, which is dark
where the reader's system is dark, so it is legible on any page.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

from examples import (
    EXAMPLES,
    FAST,
    SLOW,
    Timed,
    aligned,
    frames_of,
    measured,
    parts_of_energy,
    sentence,
    token,
)
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from aggregator.numbers.disagreement import mixture
from aggregator.numbers.interference import RESONANCE_WINDOWS, Interference
from aggregator.numbers.measures import measures_at
from aggregator.numbers.proposal import proposal_of
from aggregator.numbers.span import span_of
from schemas.frames import Frame, TokenFrame
from schemas.grid import FRAME_RATE_HZ, NS_PER_S
from schemas.rules.interference import CONSTRUCTIVE, DESTRUCTIVE, kind_of
from schemas.sessions import ENTRY_VERSION, Opening

FOLDER = Path(__file__).parent / "maths"
# Those of Okabe and Ito's colours that are visible on white and on black. None is used without a second mark.
BLUE, RED, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
INK, SOFT, LINE, PAPER = "#1b1f24", "#57606a", "#d0d7de", "#ffffff"
DARK = {INK: "#e6edf3", SOFT: "#a9b4c0", LINE: "#3b434d", PAPER: "#12161c", BLUE: "#56b4e9"}
MEMBERS = ((BLUE, "-"), (RED, "--"), (PURPLE, ":"))
LOOKS = {
    "constructive": GREEN, "destructive": RED, "next": GREEN, "amplified": BLUE, "resonance": BLUE,
}  # fmt: skip
# 540 points are 720 pixels. A telephone shows half of that, so no letters are smaller than 10 points.
WIDTH_INCHES = 7.5
SMALL = 10
# matplotlib has a type for each of these names, and the set differs between its versions.
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "council", "font.family": ["DejaVu Sans"], "font.size": 10.5,
    "text.color": INK, "axes.edgecolor": SOFT, "axes.labelcolor": INK, "axes.labelsize": 10.5,
    "xtick.color": SOFT, "ytick.color": SOFT, "xtick.labelsize": SMALL, "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL, "legend.frameon": False, "legend.labelcolor": INK,
    "figure.facecolor": PAPER, "axes.facecolor": "none", "savefig.facecolor": PAPER, "axes.grid": True,
    "grid.color": LINE, "grid.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False,
    "axes.axisbelow": True, "axes.titlesize": 10.5, "axes.titlelocation": "left",
    "figure.constrained_layout.use": True,
}  # fmt: skip

# --- how it is drawn --------------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    return "null" if value is None else f"{value:.2f}"


def box(
    ax: Axes, at: float, y: float, width: float, colour: str = "", alpha: float = 0.35, height: float = 0.7
) -> None:
    """A box with a thin outline; filled where it has a colour."""
    if colour:
        ax.add_patch(Rectangle((at, y), width, height, facecolor=colour, alpha=alpha, linewidth=0))
    ax.add_patch(Rectangle((at, y), width, height, fill=False, edgecolor=SOFT, linewidth=0.8))


def small(
    ax: Axes, x: float, y: float, words: str, ha: str = "center", va: str = "center", on_paper: bool = False
) -> None:
    """A label in the smallest letters of a picture."""
    label = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.2} if on_paper else None
    ax.text(x, y, words, ha=ha, va=va, fontsize=SMALL, bbox=label)


def tokens(ax: Axes, y: float, frames: Sequence[Frame], member: int, name: str) -> None:
    """A member's tokens in bytes; the token that covers the frontier is marked."""
    answer = "".join(frame.members[member].text for frame in frames).encode()
    colour, x = MEMBERS[member][0], frames[-1].alignment.frontier_bytes or 0
    for one in (t for frame in frames for t in frame.tokens if t.member == member):
        box(ax, one.start, y, one.end - one.start)
        for at, letter in enumerate(answer[one.start : one.end].decode().replace(" ", "·")):
            ax.text(one.start + at + 0.5, y + 0.33, letter, ha="center", va="center", family="monospace", fontsize=11)
        if one.start <= x < one.end:
            box(ax, one.start, y, one.end - one.start, colour, alpha=0.3)
            outline = Rectangle((one.start, y), one.end - one.start, 0.7, fill=False, edgecolor=colour, linewidth=2)
            ax.add_patch(outline)
    small(ax, -0.4, y + 0.34, name, ha="right")


def strips(ax: Axes, ends_s: Sequence[float], rows: dict[str, list[str]]) -> None:
    """The values of fields over time, window by window: a band for each field, with the values as words in it."""
    for y, values in enumerate(reversed(list(rows.values()))):
        at = 0
        for value, run in groupby(values):
            begin, at = at, at + len(list(run))
            begin_s = ends_s[begin] - 1 / FRAME_RATE_HZ
            width = ends_s[at - 1] - begin_s
            box(ax, begin_s, y, width, LOOKS.get(value, LINE))
            if width > 0.08 * ends_s[-1]:
                small(ax, begin_s + width / 2, y + 0.34, value, on_paper=bool(value))
    bare(ax)
    ax.set(ylim=(-0.1, len(rows) - 0.1), yticks=[y + 0.35 for y in range(len(rows))], yticklabels=list(rows)[::-1])
    ax.tick_params(length=0)
    ax.set_xlabel("seconds")


def bare(ax: Axes) -> None:
    ax.grid(False)
    ax.set_yticks([])
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)


def steps(ax: Axes, at: Sequence[float], values: Sequence[float], **look: Any) -> None:
    """A line that keeps each value until the next one, because nothing is measured in between."""
    ax.plot(at, values, drawstyle="steps-post", **look)


def new(height: float, rows: int = 1, columns: int = 1, **ratios: Sequence[float]) -> tuple[Figure, list[Axes]]:
    figure, axes = plt.subplots(
        rows, columns, figsize=(WIDTH_INCHES, height), squeeze=False, gridspec_kw=ratios or None
    )
    return figure, list(axes.flat)


# --- the pictures -----------------------------------------------------------------------------------------------------


def energy() -> Figure:
    """A member that writes fast and with certainty, stalls, and continues slowly and with low certainty."""
    end_s = 6.65
    frames = frames_of([[*FAST, *SLOW]], 6600)
    t, shown = [frame.end_ns / NS_PER_S for frame in frames], [frame.members[0].energy for frame in frames]
    profile = Opening(ENTRY_VERSION, "", "", ()).profile
    figure, (above, below) = new(4.8, 2, height_ratios=[1.7, 1.2])
    steps(above, t, shown, color=BLUE, linewidth=2)
    above.vlines([at_ms / 1000 for at_ms, *_ in (*FAST, *SLOW)], -0.12, -0.03, color=SOFT, linewidth=0.8)
    small(above, 3, -0.075, "arrivals")
    last_s = FAST[-1][0] / 1000
    held_s, half_s = last_s + profile.stall_ms / 1000, last_s + (profile.stall_ms + profile.half_life_ms) / 1000
    top, half = (shown[int(at_s * FRAME_RATE_HZ)] for at_s in (held_s, half_s))
    above.plot([held_s, half_s], [top, half], "o", color=BLUE, markersize=5)
    small(above, held_s + 0.08, top + 0.03, f"stays for stall_ms, {profile.stall_ms:g} ms", ha="left")
    small(above, half_s + 0.1, half + 0.03, f"half of it, {profile.half_life_ms:g} ms later", ha="left")
    above.set(ylim=(-0.15, 1.05), yticks=[0, 0.5, 1], title="energy of a member")
    at_s, *parts = zip(*parts_of_energy([*FAST, *SLOW]), strict=True)
    looks = (("velocity", GREEN, "-"), ("certainty", RED, "--"), ("friction", PURPLE, "-."))
    for values, (name, colour, dashes) in zip(parts, looks, strict=True):
        line = [*at_s, end_s], [*values, values[-1]]
        steps(below, *line, color=colour, linestyle=dashes, linewidth=2, label=name)
    below.legend(loc="upper left", ncols=3)
    below.set(ylim=(-0.06, 1.6), yticks=[0, 0.5, 1], xlabel="seconds", title="its parts, at each arrival")
    for ax in (above, below):
        ax.set_xlim(0, end_s)
    return figure


def lists() -> Figure:
    """One token's list: its pieces, and the probability that it leaves out."""
    proposal = proposal_of(token(" sky", {" sky": 0.5, " sea": 0.2, " air": 0.08}), 3)
    figure, (ax,) = new(1.75)
    at = 0.0
    for piece, p in proposal.probabilities.items():
        box(ax, at, 0, p, BLUE, 0.5 * p + 0.15, height=1)
        ax.text(at + p / 2, 0.5, f"{piece.decode().replace(' ', '·')}\n{p:.2f}", ha="center", va="center")
        at += p
    box(ax, at, 0, proposal.rest, height=1)
    most = Rectangle((at, 0), proposal.unlisted, 1, facecolor="none", edgecolor=RED, linewidth=1.6, hatch="///")
    ax.add_patch(most)
    middle = at + (proposal.unlisted + proposal.rest) / 2
    ax.text(middle, 0.5, f"left out\nr = {proposal.rest:.2f}", ha="center", va="center")
    small(ax, 1, 1.26, f"t = {proposal.unlisted:.2f}: the most that a piece left out can have", ha="right")
    ax.plot([at + proposal.unlisted / 2] * 2, [1.03, 1.14], color=RED, linewidth=1.6)
    bare(ax)
    ax.spines["bottom"].set_visible(True)
    ax.set(xlim=(-0.003, 1.003), ylim=(-0.12, 1.45), xticks=[i / 5 for i in range(6)], xlabel="probability")
    ax.set_title("the list of one token", y=0.86)
    return figure


def bounds() -> Figure:
    """The bounds of the index for lists of K pieces, of three members with different likeliest pieces."""
    shares = [0.75**rank / 4 for rank in range(40)]
    whole = []
    for member, rank_of_common in enumerate((1, 3, 4)):
        pieces = [f" {member} {rank}" for rank in range(40)]
        pieces[rank_of_common] = " common"
        whole.append(dict(zip(pieces, shares, strict=True)))
    ks = range(1, 17)
    cut = [[dict(list(listed.items())[:k]) for listed in whole] for k in (*ks, 40)]
    found = [measures_at(3, [aligned(next(iter(listed)), listed) for listed in at_k], [1.0] * 3) for at_k in cut]
    low, high, true = [m.di_low or 0.0 for m in found[:-1]], [m.diversity_index for m in found[:-1]], found[-1]
    figure, (ax,) = new(3.2)
    ax.fill_between(ks, low, high, color=BLUE, alpha=0.18, linewidth=0)
    ax.plot(ks, high, "o-", color=BLUE, markersize=4, linewidth=1.6, label="diversity_index: the upper bound")
    ax.plot(ks, low, "s--", color=RED, markersize=4, linewidth=1.6, label="di_low: the lower bound")
    ax.axhline(
        true.diversity_index,
        color=INK,
        linewidth=1,
        linestyle=":",
        label="the true index, from complete lists",
    )
    ax.legend(loc="lower right")
    ax.set(xlabel="K, pieces in each list", ylim=(0.7, 0.95), xlim=(0.7, 16.3), title="the true index is in the band")
    return figure


def parting() -> Figure:
    """Two members that wrote the same text, and parted."""
    texts = ("The sky is blue by day", "The sky is grey, for it rains")
    frames = frames_of([sentence(text, 100 - 5 * member, 0.8) for member, text in enumerate(texts)])
    last = frames[-1]
    x, parted = last.alignment.frontier_bytes or 0, last.alignment.diverged_at_bytes or 0
    n = last.measures.span_bytes or 0
    figure, (ax,) = new(2.1)
    ax.add_patch(Rectangle((0, -0.15), parted, 2.1, facecolor=GREEN, alpha=0.13, linewidth=0))
    for member in (0, 1):
        tokens(ax, 1.05 - member, frames, member, f"member {member}")
    ax.plot([x, x], [-0.2, 2.0], color=INK, linewidth=2)
    ax.plot([parted, parted], [-0.2, 2.0], color=INK, linewidth=1.2, linestyle=":")
    ax.plot([x, x + n], [-0.27, -0.27], color=INK, linewidth=2)
    small(ax, parted / 2, 2.17, "the same text")
    small(ax, parted, -0.5, f"diverged_at_bytes {parted}")
    small(ax, x, 2.17, f"frontier_bytes {x}, compares {last.alignment.compares}")
    small(ax, x, -0.5, f"span_bytes {n}", ha="left")
    bare(ax)
    ax.set(xlim=(-4, 30), ylim=(-0.7, 2.35), xticks=[])
    return figure


def span() -> Figure:
    """One text under three tokenizers, and what each member proposes for the byte that all of them have."""
    words = [
        (0, "The", {"The": 1.0}),
        (60, " sky", {" sky": 0.65, " sea": 0.12, " clear": 0.1}),
        (120, " is", {" is": 1.0}),
    ]
    pairs = [(0, "The", {"The": 1.0}), (50, " s", {" s": 0.74, " c": 0.12})]
    letters = [*((20 * i, c, {c: 1.0}) for i, c in enumerate("The ")), (100, "s", {"s": 0.78, "c": 0.1})]
    frames = frames_of([words, pairs, letters])
    last = frames[-1]
    x, n = last.alignment.frontier_bytes or 0, last.measures.span_bytes or 0
    covering = [(one.start, written[one.seq]) for one, written in _at(x, frames, (words, pairs, letters))]
    names = ("words", "byte pairs", "characters")
    figure, (above, below) = new(4.5, 2)
    for member, (start, (_, text, listed)) in enumerate(covering):
        y, at = 2.05 - member, 0.0
        tokens(above, y, frames, member, names[member])
        q = span_of(proposal_of(token(text, listed), start), x - start, n)
        for words_of_it, p in [*((cut.decode(), p) for cut, p in q.probabilities.items()), ("left out", q.rest)]:
            fill = {"s": MEMBERS[member][0], "c": LINE}.get(words_of_it, "")
            box(below, at, y, p, fill, 0.5, height=0.8)
            small(below, at + p / 2, y + 0.4, f"{words_of_it}\n{p:.2f}")
            at += p
        small(below, -0.013, y + 0.4, names[member], ha="right")
    above.plot([x, x], [-0.25, 3.0], color=INK, linewidth=2)
    above.plot([x + n, x + n], [-0.25, 3.0], color=INK, linewidth=1.2, linestyle=":")
    above.plot([x, x + n], [-0.25, -0.25], color=INK, linewidth=2)
    small(above, x + n / 2, -0.6, f"frontier_bytes {x}, span_bytes {n}")
    small(
        below,
        0,
        -0.33,
        f"diversity_index {last.measures.diversity_index:.2f} of whole pieces, "
        f"di_span {number(last.measures.di_span)} of the next byte",
        "left",
    )
    for ax, title in (
        (above, "one text, three tokenizers"),
        (below, "q_m: each member's probabilities of the next byte"),
    ):
        bare(ax)
        ax.set(ylim=(-0.6, 3.1), xticks=[], title=title)
    above.set(xlim=(-2.05, 11.6), ylim=(-0.85, 3.1))
    below.set_xlim(-0.178, 1.003)
    return figure


def _at(
    x: int, frames: Sequence[Frame], written: Sequence[Sequence[Timed]]
) -> list[tuple[TokenFrame, Sequence[Timed]]]:
    """The aligned token of each member, with all tokens that it wrote."""
    covering = [one for frame in frames for one in frame.tokens if one.start <= x < one.end]
    return [(one, written[one.member]) for one in sorted(covering, key=lambda one: one.member)]


def disagreement() -> Figure:
    """Two councils with the same index and different divergences; and a council whose members agree."""
    figure, axes = new(3.9, 3, 3)
    texts = (b" sky", b" sea")
    for column, name in enumerate(("same, uncertain", "different, certain", "same, certain")):
        m = measured(name)
        spans = [span_of(one.proposal, 0, m.span_bytes or 0).probabilities for one in EXAMPLES[name]]
        for row, q in enumerate([*spans, mixture(spans, [0.5, 0.5])]):
            ax = axes[3 * row + column]
            for i, text in enumerate(texts):
                ax.bar(i, q.get(text, 0.0), 0.62, color=(BLUE, RED, SOFT)[row], alpha=0.5, linewidth=0)
                small(ax, i, q.get(text, 0.0) + 0.12, number(q.get(text, 0.0)))
            ax.set(xlim=(-0.6, 1.6), ylim=(0, 1.35), xticks=[0, 1], xticklabels=["·sky", "·sea"] if row == 2 else [])
            bare(ax)
            ax.spines["bottom"].set_visible(True)
            ax.tick_params(length=0)
            if not column:
                ax.set_ylabel(("member 0", "member 1", "council, Q")[row], fontsize=SMALL)
        axes[column].set_title(f"{name}\ndiversity_index {m.diversity_index:.2f}, jsd {number(m.jsd)}")
    return figure


def wave() -> Figure:
    """The wave of an energy of 0.5, over the agreement of members with 0.45 and 0.55."""
    energies, energy = (0.45, 0.55), 0.5
    agreements = [i / 1000 for i in range(1001)]
    waves = [Interference().step(energy, energies, a) for a in agreements]
    figure, (ax,) = new(3.3)
    kinds = [
        (kind or "", [a for a, _ in run]) for kind, run in groupby(((a, kind_of(a)) for a in agreements), key=_second)
    ]
    for kind, there in kinds:
        ax.axvspan(there[0] - 0.0005, there[-1] + 0.0005, facecolor=LOOKS.get(kind, LINE), alpha=0.16, linewidth=0)
        small(ax, (there[0] + there[-1]) / 2, 0.79, kind)
    ax.plot(agreements, [one.wave for one in waves], color=INK, linewidth=1.4)
    for flag, colour, dashes in (("dampened", RED, "--"), ("amplified", BLUE, "-")):
        raised = [(a, one.wave) for a, one in zip(agreements, waves, strict=True) if getattr(one, flag)]
        ax.plot(*zip(*raised, strict=True), color=colour, linewidth=4, linestyle=dashes)
        ax.text(raised[len(raised) // 2][0] + 0.03, raised[len(raised) // 2][1] - 0.06, flag)
    for level, words in ((max(energies), "the largest energy of a member"), (energy, "energy, and the members' mean")):
        ax.axhline(level, color=SOFT, linewidth=0.9, linestyle="-.")
        small(ax, 0.01, level + 0.018, f"{words}: {level:g}", ha="left")
    ax.grid(False)
    ax.set(xlim=(0, 1), ylim=(0.2, 0.82), xlabel="agreement", ylabel="wave")
    return figure


def _second(pair: tuple[float, str | None]) -> str | None:
    return pair[1]


def session() -> Figure:
    """Two members that write the same beginning, and part."""
    shared = "The sky at dusk is red, as all who look up can see for an hour or two in the west"
    texts = (
        f"{shared} and then the dark comes from the sea with all its stars and one more that no one has a name for "
        "as yet",
        f"{shared} but when the moon is up it may be so light that few stars are seen",
    )
    # One is fast and certain, the other slower and less certain.
    frames = frames_of([sentence(texts[0], 90, 0.85), sentence(texts[1], 120, 0.6)])
    t, ends_s = [frame.start_ns / NS_PER_S for frame in frames], [frame.end_ns / NS_PER_S for frame in frames]
    figure, (top, middle, low) = new(5.9, 3, height_ratios=[1.6, 1, 1.5])
    for member, (colour, dashes) in enumerate(MEMBERS[:2]):
        energies = [frame.members[member].energy for frame in frames]
        steps(top, t, energies, color=colour, linestyle=dashes, linewidth=1.5, label=f"energy of member {member}")
    steps(top, t, [frame.energy for frame in frames], color=PURPLE, linewidth=2.6, linestyle=":", label="energy")
    steps(top, t, [frame.interference.wave for frame in frames], color=INK, linewidth=2.2, label="wave")
    top.legend(loc="upper left", ncols=4, columnspacing=1.4, handlelength=2.2)
    agreement = [math.nan if frame.measures.agreement is None else frame.measures.agreement for frame in frames]
    steps(middle, t, agreement, color=GREEN, linewidth=1.8)
    for level, words in ((CONSTRUCTIVE, "constructive from"), (DESTRUCTIVE, "destructive to")):
        middle.axhline(level, color=SOFT, linewidth=0.9, linestyle="-.")
        small(middle, 0.02, level + (0.12 if level == CONSTRUCTIVE else -0.14), f"{words} {level}", ha="left")
    top.set(ylim=(0, 1.38), yticks=[0, 0.5, 1])
    middle.set(ylim=(0, 1.08), yticks=[0, 0.5, 1], title="agreement")
    rows: dict[str, list[str]] = {
        "compares": [frame.alignment.compares or "" for frame in frames],
        "interference": [frame.interference.kind for frame in frames],
        "amplified": ["amplified" if frame.interference.amplified else "" for frame in frames],
        "resonance": ["resonance" if frame.interference.resonance else "" for frame in frames],
    }
    strips(low, ends_s, rows)
    for ax in (top, middle, low):
        ax.set_xlim(0, ends_s[-1])
    return figure


def resonance() -> Figure:
    """An agreement that rises and falls, and what is shown of it, window by window."""
    runs = ((0.5, 15), (0.9, 10), (0.5, 8), (0.9, 50), (0.5, 25), (0.9, 112), (0.1, 60))
    agreements = [a for a, windows in runs for _ in range(windows)]
    state = Interference()
    taken = [(state.step(0.6, (0.58, 0.62), a), state.resonant_windows) for a in agreements]
    t, ends_s = ([(i + after) / FRAME_RATE_HZ for i in range(len(taken))] for after in (0, 1))
    figure, (top, middle, low) = new(4.9, 3, height_ratios=[1.1, 0.9, 1.3])
    steps(top, t, agreements, color=GREEN, linewidth=1.8)
    top.set(ylim=(0, 1.05), title="agreement", yticks=[0, DESTRUCTIVE, CONSTRUCTIVE, 1])
    steps(middle, t, [windows for _, windows in taken], color=BLUE, linewidth=1.8)
    middle.axhline(RESONANCE_WINDOWS, color=SOFT, linestyle="-.", linewidth=0.9)
    title = "windows, one after another, of constructive interference and an amplified wave"
    middle.set(ylim=(0, 60), yticks=[0, RESONANCE_WINDOWS], title=title)
    rows: dict[str, list[str]] = {
        "interference": [one.kind for one, _ in taken],
        "amplified": ["amplified" if one.amplified else "" for one, _ in taken],
        "resonance": ["resonance" if one.resonance else "" for one, _ in taken],
    }
    strips(low, ends_s, rows)
    for ax in (top, middle, low):
        ax.set_xlim(0, ends_s[-1])
    return figure


PICTURES = (energy, lists, bounds, parting, span, disagreement, wave, session, resonance)


def for_any_page(svg: str) -> str:
    """The picture with a dark background and light ink where the reader's system is dark, and with fallback fonts."""
    rules = "".join(
        f'[style*="{what}: {day}"]{{{what}:{night} !important}}'
        for day, night in DARK.items()
        for what in ("fill", "stroke")
    )
    svg = svg.replace("'DejaVu Sans';", "'DejaVu Sans', Verdana, sans-serif;")
    return svg.replace("<defs>", f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>\n <defs>", 1)


def main(folder: Path) -> None:
    """Draws every picture into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in PICTURES:
        with matplotlib.rc_context(STYLE):
            figure = picture()
            path = folder / f"{picture.__name__}.svg"
            figure.savefig(path, metadata={"Date": None, "Creator": None, "Title": (picture.__doc__ or "").strip()})
            plt.close(figure)
        path.write_text(for_any_page(path.read_text()))
        print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
