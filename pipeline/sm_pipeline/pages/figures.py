"""Figures for a page: inline SVG in the page's own colours, drawn by matplotlib.

    draw_histogram(survey.durations, "fig-seconds", "seconds")      '<svg id="fig-seconds" role="img" ...'
    draw_fit(target.fit, "fig-fit")
    draw_curves([Curve("gaussian", errors, rates, lowest, highest)], "fig-curve", ("relative MSE", "WER in %"))
    draw_sweep([Curve("seed=1", alphas, rates, lowest, highest)], "fig-alpha", ("alpha", "WER %"))

matplotlib draws in a few stand-in colours, which become CSS variables (`--ink`, `--rule`, `--bar`, `--mark`) that the
page sets for light and dark mode. Labels may be any text: they are escaped, and `$` has no meaning in them. Ids are
prefixed with the figure's name, so that many figures can be in one page. The same numbers give the same bytes.
matplotlib is imported when a figure is drawn, not before.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from sm_pipeline.pages.distributions import Fit, Histogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, RULE, BAR, MARK = "#010203", "#020301", "#030102", "#010302"
VARIABLES = {INK: "var(--ink)", RULE: "var(--rule)", BAR: "var(--bar)", MARK: "var(--mark)"}
SIZE = (4.2, 2.6)  # inches; the page scales figures to its columns
SQUARE = (4.2, 4.0)
WIDE = (6.4, 3.6)
SWEPT = (4.8, 3.2)
LINES = (  # colour, marker and dashes of the curves of a sweep: no two differ by colour alone
    (BAR, "o", "-"),
    (MARK, "s", "-"),
    (INK, "^", "--"),
    (BAR, "D", "--"),
    (MARK, "v", ":"),
    (INK, "P", ":"),
)
MOST_CURVES = len(LINES)
LOGARITHMIC = 50  # largest value of a swept setting over its smallest, from which its axis is logarithmic
OPACITIES = (0.25, 0.45, 0.65, 0.85, 1.0)  # of the cells of a grid, from few to many
STYLE: dict[Any, Any] = {  # matplotlib's stubs know its keys as literals
    "axes.axisbelow": True,
    "axes.edgecolor": RULE,
    "axes.formatter.use_mathtext": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": INK,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",  # letters stay text: small, selectable, in the page's font
    "svg.hashsalt": "speechmapper",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "ytick.left": False,
}


def draw_histogram(
    shown: Histogram, name: str, x_label: str, y_label: str = "utterances", mark: tuple[str, float] | None = None
) -> str:
    """Bars over bins, as SVG.

    Args:
        name: the figure's id in the page: letters, digits, `-`.
        mark: a label and the x position of its vertical line.
    """
    with _figure(SIZE) as (figure, axes):
        axes.stairs(shown.counts, shown.edges, fill=True, color=BAR)
        axes.set(xlabel=x_label, ylabel=y_label, ylim=(0, shown.counts.max() * (1.15 if mark else 1.05)))
        if mark is not None:
            _mark(axes, *mark)
        _ticks(axes, shown.whole)
        return _svg(figure, name, _words(shown, x_label, y_label))


def draw_fit(shown: Fit, name: str) -> str:
    """Utterances by output vectors and tokens, darker for more of them, with the line below which texts fit."""
    from matplotlib.patches import Patch

    limit = float(shown.edges[-1])
    with _figure(SQUARE) as (figure, axes):
        handles: list[Any] = axes.plot([0.5, limit], [-0.5, limit - 1], color=MARK, linewidth=1.5)
        handles[0].set_label("tokens + 1 = vectors")
        for (fewest, most), opacity in zip(levels(int(shown.utterances.max())), OPACITIES, strict=False):
            inside = (shown.utterances >= fewest) & (shown.utterances <= most)
            _cells(axes, shown.edges, inside, opacity)
            handles.append(Patch(color=BAR, alpha=opacity, linewidth=0, label=_interval(fewest, most)))
        axes.set(xlabel="output vectors", ylabel="tokens", xlim=(0, limit), ylim=(0, limit))
        axes.grid(True, axis="both")
        axes.legend(handles=handles, loc="upper left", fontsize=9, handlelength=1.2, labelspacing=0.3)
        _ticks(axes, whole=True)
        words = f"Utterances by output vectors and tokens: {int(shown.utterances.sum()):,} utterances"
        return _svg(figure, name, f"{words}, {shown.pad_share:.0%} of all vectors are pads")


@dataclass(frozen=True, slots=True)
class Curve:
    """A line through points (x, y), with the range from `low` to `high` of each; all of the same length."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def draw_curves(
    curves: Sequence[Curve],
    name: str,
    labels: tuple[str, str],
    mark: tuple[str, float] | None = None,
    limit: float | None = None,
) -> str:
    """One or two curves, from 0 upwards.

    Args:
        labels: of x and y. mark: as in `draw_histogram`. limit: y position of a dashed line.
    """
    with _figure(WIDE) as (figure, axes):
        for curve, colour, points in zip(curves, (BAR, MARK), ("o", "s"), strict=False):
            axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=OPACITIES[0], linewidth=0)
            axes.plot(curve.x, curve.y, color=colour, marker=points, markersize=4, linewidth=1.5, label=curve.label)
        highest = max(max(curve.high) for curve in curves)
        axes.set(xlabel=labels[0], ylabel=labels[1], ylim=(0, 1.15 * max(highest, limit or 0.0, 1.0)))
        if limit is not None:
            axes.axhline(limit, color=INK, linewidth=0.8, linestyle="--")
        if mark is not None:
            _mark(axes, *mark, colour=INK)
        axes.legend(loc="center right", fontsize=9)
        _ticks(axes, whole=False)
        ends = "; ".join(f"{curve.label} from {curve.y[0]:.3g} to {curve.y[-1]:.3g}" for curve in curves)
        at = f"; {mark[0]} at {mark[1]:.3g}" if mark is not None else ""
        return _svg(figure, name, f"{labels[1]} by {labels[0]}: {ends}{at}")


def draw_sweep(
    curves: Sequence[Curve], name: str, labels: tuple[str, str], limit: float | None = None, joined: bool = True
) -> str:
    """Up to `MOST_CURVES` curves through few points each, with the range of every point as a bar.

    Args:
        labels: of x and y. limit: y position of a dashed line. joined: whether lines join the points.
    """
    with _figure(SWEPT) as (figure, axes):
        for curve, (colour, marker, dashes) in zip(curves, LINES, strict=False):
            axes.vlines(curve.x, curve.low, curve.high, color=colour, alpha=OPACITIES[1], linewidth=3)
            style = dashes if joined else "none"
            axes.plot(
                curve.x, curve.y, color=colour, marker=marker, markersize=5, linestyle=style, label=curve.label or " "
            )
        if limit is not None:
            axes.axhline(limit, color=INK, linewidth=0.8, linestyle="--")
        axes.set(xlabel=labels[0], ylabel=labels[1])
        axes.margins(y=0.15)
        if any(curve.label for curve in curves):
            figure.legend(loc="outside upper left", fontsize=8, ncols=2)
        _swept_ticks(axes, sorted({at for curve in curves for at in curve.x}))
        ends = "; ".join(
            f"{curve.label or 'all'} from {curve.y[0]:.3g} at {curve.x[0]:g} to {curve.y[-1]:.3g} at {curve.x[-1]:g}"
            for curve in curves
        )
        return _svg(figure, name, f"{labels[1]} by {labels[0]}: {ends}")


def levels(most: int) -> list[tuple[int, int]]:
    """Up to five ranges of counts from 1 to `most`, of geometrically growing width."""
    bounds = np.unique(np.round(np.geomspace(1, most + 1, len(OPACITIES) + 1)).astype(int))
    return [(low, high - 1) for low, high in pairwise(bounds.tolist())]


def _interval(fewest: int, most: int) -> str:
    """Label of a range of counts; only the first, from 1, names what is counted, to save room."""
    numbers = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
    return f"{numbers} utterance{'s' if most > 1 else ''}" if fewest == 1 else numbers


def _cells(axes: Axes, edges: np.ndarray, inside: np.ndarray, opacity: float) -> None:
    """The cells that are `inside`, as one shape: a page of many thousand shapes would be slow."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    at = np.argwhere(inside)
    corners = at[:, None, :] + np.asarray([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)])
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(at)
    if len(at):
        path = Path(edges[corners.reshape(-1, 2)], codes)
        axes.add_patch(PathPatch(path, facecolor=BAR, alpha=opacity, linewidth=0, antialiased=False))


def _mark(axes: Axes, word: str, at: float, colour: str = MARK) -> None:
    axes.axvline(at, color=colour, linewidth=1.5)
    low, high = axes.get_xlim()
    left = at > (low + high) / 2  # the label goes to the side with more room
    axes.annotate(
        word,
        (at, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if left else 4, -2),
        textcoords="offset points",
        horizontalalignment="right" if left else "left",
        verticalalignment="top",
        color=colour,
    )


def _ticks(axes: Axes, whole: bool) -> None:
    """Few ticks at round numbers, large counts as 20k or 3M; x at integers where they are `whole`."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    steps = [1, 2, 5, 10]
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole, steps=steps, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=steps, min_n_ticks=1))
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))


def _swept_ticks(axes: Axes, values: Sequence[float]) -> None:
    """Few ticks at round numbers; a logarithmic x where values are positive and far apart."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    if values[0] > 0 and values[-1] / values[0] >= LOGARITHMIC:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _words(shown: Histogram, x_label: str, y_label: str) -> str:
    """Description of a histogram for screen readers."""
    low, median, high = list(shown.quantiles.values())[:: len(shown.quantiles) // 2]
    return f"Histogram of {x_label}: {shown.total:,} {y_label} from {low:.4g} to {high:.4g}, median {median:.4g}"


@contextmanager
def _figure(size: tuple[float, float]) -> Iterator[tuple[Figure, Axes]]:
    """An empty figure in our style, independent of the user's matplotlibrc, and without log lines about the
    font cache that the first import of matplotlib builds."""
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        import matplotlib
        from matplotlib.figure import Figure

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            figure = Figure(figsize=size)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=r"Glyph .* missing from")  # letters are the page's font's
                yield figure, figure.add_subplot()
    finally:
        log.setLevel(level)


def _svg(figure: Figure, name: str, words: str) -> str:
    """The figure as an element of a page: no XML header, no metadata, ids of its own, CSS colours, no fixed size."""
    out = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    svg = out.getvalue()
    start = re.search(r'<svg[^>]*? viewBox="([^"]*)"[^>]*>', svg)
    if start is None:
        raise ValueError("matplotlib wrote no <svg viewBox>")
    body = svg[start.end() :]
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", body)
    body = re.sub(r" font-family: [^;\"]+;", "", body)  # the page's own
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)  # it would hold for the whole page
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, variable)
    return f'<svg id="{name}" viewBox="{start[1]}" role="img" aria-label="{escape(words)}">{body}'
