"""`council plot`: a picture of a recording, with energies, diversity and its bounds, divergence, interference, and the
window in which the answers parted."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from council.recording.curves import Curves
from recordings.parts import part_of
from recordings.plain import short
from recordings.reading import RecordingReader
from schemas.errors import Malformed, Refused
from schemas.frame_json import frame_of_json
from schemas.frames import Frame
from schemas.grid import FRAME_RATE_HZ
from schemas.sessions import WITHOUT_TEXT

SUFFIXES = (".png", ".svg")
# More lines cannot be distinguished; a council has at most six members.
_MOST_MEMBERS = 8
# Lines with more points than pixels are drawn thin.
_MOST_POINTS_DRAWN_BOLD = 1_000
_ENERGY, _HIGH, _LOW, _JSD = range(4)
_OWN_CURVES = 4
# Okabe and Ito's colours, which colour-blind people can distinguish. Each has a second cue.
_BLUE, _RED, _GREEN, _PURPLE, _ORANGE, _SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
_INK, _SOFT, _LINE, _PAPER = "#1b1f24", "#57606a", "#d0d7de", "#ffffff"
_MEMBER_LOOKS = (
    (_BLUE, "-"), (_RED, "--"), (_PURPLE, "-."), (_GREEN, ":"), (_ORANGE, "-"), (_SKY, "--"), (_SOFT, "-."),
    (_BLUE, ":"),
)  # fmt: skip
# (colour, height within its band): the height is the second cue.
_BANDS = {
    "constructive": (_GREEN, 1.0), "destructive": (_RED, 0.6), "resonance": (_BLUE, 1.0), "amplified": (_SKY, 0.8),
    "dampened": (_ORANGE, 0.5), "neutral": (_LINE, 0.25),
}  # fmt: skip
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "council", "font.family": ["DejaVu Sans"], "font.size": 10,
    # A name may contain dollar signs, which must not begin a formula.
    "text.parse_math": False, "text.color": _INK, "axes.edgecolor": _SOFT, "axes.labelcolor": _INK,
    "xtick.color": _SOFT, "ytick.color": _SOFT, "legend.fontsize": 9, "legend.frameon": False,
    "figure.facecolor": _PAPER, "axes.facecolor": "none", "savefig.facecolor": _PAPER, "axes.grid": True,
    "grid.color": _LINE, "grid.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False,
    "axes.axisbelow": True, "axes.titlesize": 10, "axes.titlelocation": "left", "path.simplify": False,
}  # fmt: skip


class PlotData(msgspec.Struct):
    """The drawn content of a recording: the curves, the bands, the window in which the answers parted."""

    title: str
    names: list[str]
    curves: Curves
    parted: int | None = None
    parted_bytes: int | None = None
    frames: int = 0


def plotted(path: Path, out: Path, *, force: bool = False, progress: Callable[[int], None] | None = None) -> None:
    """Draws the recording into `out`, a PNG or an SVG by its suffix.

    Raises Refused for another suffix, where matplotlib is not installed, or where the file exists and `force` is not
    set; Damage, Malformed; Unavailable where the disk fails.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise Refused("bad_picture", f"{out} is not the name of a picture: use the suffix .png or .svg.")
    matplotlib = _matplotlib()
    with part_of(out, replaces=force) as part:
        drawn = gathered(path, progress)
        with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
            # A character that the font lacks is drawn as a box.
            warnings.simplefilter("ignore")
            _save(_figure(drawn), part, out.suffix.lower()[1:])


def _matplotlib() -> Any:
    try:
        import matplotlib  # imported here: it is large, and optional
    except ImportError:
        raise Refused(
            "no_matplotlib",
            'A picture needs the package matplotlib: pip install "turbo-ensemble[plot]" installs it.',
        ) from None
    return matplotlib


def gathered(path: Path, progress: Callable[[int], None] | None = None) -> PlotData:
    """The content of the picture. Raises Refused, Damage; Malformed where the recording contains no frame."""
    with RecordingReader(path) as reader:
        about = reader.about
        names = list(about.names[:_MOST_MEMBERS])
        question = short(about.prompt, 90) if about.text else WITHOUT_TEXT
        drawn = PlotData(question, [_label(name) for name in names], Curves(_OWN_CURVES + len(names), 2))
        last_window = -1
        for item in reader.items():
            if item.kind == "frame":
                frame = frame_of_json(item.raw)
                if frame.window_index > last_window:
                    last_window = frame.window_index
                    _add(drawn, frame)
            if progress:
                progress(reader.at_bytes)
    if not drawn.frames:
        raise Malformed(f"{path} contains no frame: there is nothing to draw.")
    return drawn


def _label(name: str) -> str:
    # matplotlib leaves out of the legend names that begin with an underscore.
    return f" {short(name, 24)}" if name.startswith("_") else short(name, 24)


def _add(drawn: PlotData, frame: Frame) -> None:
    members = [member.energy for member in frame.members[: len(drawn.names)]]
    missing = [None] * (len(drawn.names) - len(members))
    measures = frame.measures
    values = [frame.energy, measures.diversity_index, measures.di_low, measures.jsd, *members, *missing]
    if measures.di_source != "logprobs":
        values[_HIGH] = values[_LOW] = None
    # The first of several: resonance is also amplified.
    raised = [name for name in ("resonance", "amplified", "dampened") if getattr(frame.interference, name)]
    drawn.curves.add(frame.window_index, values, (frame.interference.kind, next(iter(raised), "")))
    drawn.frames += 1
    if frame.alignment.diverged_at_bytes is not None and drawn.parted is None:
        drawn.parted, drawn.parted_bytes = frame.window_index, frame.alignment.diverged_at_bytes


def _figure(drawn: PlotData) -> Any:
    from matplotlib.figure import Figure

    # An automatic layout would differ in the last digit between two runs.
    figure = Figure(figsize=(9, 7.4))
    figure.subplots_adjust(left=0.105, right=0.77, top=0.92, bottom=0.075, hspace=0.3)
    top, diversity, divergence, bands = figure.subplots(
        4, 1, sharex=True, gridspec_kw={"height_ratios": [2.2, 1.4, 1, 0.9]}
    )
    figure.suptitle(drawn.title, x=0.015, y=0.98, ha="left", fontsize=11)
    curves = drawn.curves
    for number, (name, (colour, dashes)) in enumerate(zip(drawn.names, _MEMBER_LOOKS, strict=False)):
        _line(top, curves, _OWN_CURVES + number, colour, dashes, 1.4, name)
    _line(top, curves, _ENERGY, _INK, "-", 2.2, "energy of the ensemble")
    top.set(ylim=(-0.03, 1.05), yticks=[0, 0.5, 1], title=_energy_title(drawn))
    windows, low, high = curves.bounds(_LOW, _HIGH)
    at_s = [window / FRAME_RATE_HZ for window in windows]
    diversity.fill_between(at_s, low, high, step="post", color=_BLUE, alpha=0.2, linewidth=0)
    _line(diversity, curves, _HIGH, _BLUE, "-", 1.6, "diversity_index")
    _line(diversity, curves, _LOW, _RED, "--", 1.4, "di_low")
    diversity.set(ylim=(-0.03, 1.05), yticks=[0, 0.5, 1], title="diversity index: the true one lies in the band")
    _line(divergence, curves, _JSD, _PURPLE, "-", 1.6, "jsd")
    divergence.set(ylim=(-0.03, 1.05), yticks=[0, 0.5, 1], title="jsd: how far the members' distributions are apart")
    _draw_bands(bands, curves)
    for ax in (top, diversity, divergence, bands):
        if drawn.parted is not None:
            ax.axvline(drawn.parted / FRAME_RATE_HZ, color=_INK, linewidth=1, linestyle=(0, (2, 2)))
    for ax in (top, diversity):
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    begin_s, end_s = (curves.window_of(0) / FRAME_RATE_HZ, curves.end_window / FRAME_RATE_HZ)
    bands.set(xlim=(begin_s, end_s), xlabel="seconds")
    return figure


def _energy_title(drawn: PlotData) -> str:
    if drawn.parted is None:
        return "energy"
    return f"energy; dotted: the answers parted at byte {drawn.parted_bytes}, {drawn.parted / FRAME_RATE_HZ:.2f} s"


def _line(ax: Any, curves: Curves, curve: int, colour: str, dashes: str, width: float, name: str) -> None:
    windows, values = curves.line(curve)
    at_s = [window / FRAME_RATE_HZ for window in windows]
    width = width if len(windows) < _MOST_POINTS_DRAWN_BOLD else width / 2
    ax.plot(at_s, values, drawstyle="steps-post", color=colour, linestyle=dashes, linewidth=width, label=name)


def _draw_bands(ax: Any, curves: Curves) -> None:
    """Draws interference and the wave, each as a row of bars; colour and height show the value."""
    from matplotlib.patches import Patch

    seen = dict[str, None]()
    for row, band in enumerate((1, 0)):
        for name, (colour, height) in _BANDS.items():
            spans = [
                (begin / FRAME_RATE_HZ, (end - begin) / FRAME_RATE_HZ)
                for begin, end, label in curves.runs(band)
                if label == name
            ]
            if spans:
                ax.broken_barh(spans, (row * 1.2, height), facecolors=colour, linewidth=0)
                seen.setdefault(name)
    ax.set(ylim=(-0.1, 2.3), yticks=[0.5, 1.7], yticklabels=["wave", "interference"])
    ax.tick_params(axis="y", length=0)
    ax.grid(False)
    ax.legend(
        handles=[Patch(color=_BANDS[name][0], label=name) for name in _BANDS if name in seen],
        loc="upper left", bbox_to_anchor=(1.0, 1.35),
    )  # fmt: skip


def _save(figure: Any, part: Path, kind: str) -> None:
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    figure.savefig(part, format=kind, dpi=130, metadata=metadata)
