"""Figures as SVG: what they say, that they fit into a page, and that they are the same each time."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from itertools import pairwise
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from sm_pipeline.pages import figures
from sm_pipeline.pages.distributions import fit, histogram
from sm_pipeline.pages.figures import Curve, draw_curves, draw_fit, draw_histogram, draw_sweep, levels

SVG = "{http://www.w3.org/2000/svg}"
NUMBERS = histogram(np.random.default_rng(0).gamma(2.0, 3.0, 400))
FITS = fit(np.arange(1, 200), np.arange(1, 200) // 2)


def parsed(svg: str) -> ElementTree.Element:
    """As XML; in a page, the HTML parser knows the namespaces by itself."""
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return ElementTree.fromstring(svg.replace("<svg ", f"<svg {spaces} ", 1))


def words(svg: str) -> list[str]:
    """Every text in a figure."""
    return [element.text for element in parsed(svg).iter(f"{SVG}text")]


CURVES = [
    Curve("gaussian", [0.0, 0.5, 1.0], [2.0, 20.0, 90.0], [2.0, 15.0, 80.0], [2.0, 25.0, 95.0]),
    Curve("mix", [0.0, 0.5, 1.0], [2.0, 30.0, 70.0], [2.0, 30.0, 70.0], [2.0, 30.0, 70.0]),
]
DRAWINGS = [
    pytest.param(lambda name: draw_histogram(NUMBERS, name, "seconds"), id="histogram"),
    pytest.param(lambda name: draw_histogram(NUMBERS, name, "norm", mark=("pad", 3.0)), id="marked"),
    pytest.param(lambda name: draw_fit(FITS, name), id="fit"),
    pytest.param(
        lambda name: draw_curves(CURVES, name, ("error", "WER"), mark=("threshold", 0.2), limit=3.0), id="curves"
    ),
    pytest.param(lambda name: draw_sweep(CURVES, name, ("alpha", "WER %"), limit=3.0), id="sweep"),
]


@pytest.mark.parametrize("draw", DRAWINGS)
def test_a_figure_fits_into_a_page(draw):
    svg = draw("figure-7")
    root = parsed(svg)
    assert svg.startswith('<svg id="figure-7" viewBox="0 0 ')
    assert root.get("role") == "img"
    assert root.get("width") is None  # the page decides
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids)) > 10
    assert all(name.startswith("figure-7") for name in ids)
    used = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg)
    assert {one or other for one, other in used} <= set(ids)
    assert len(used) > 3


@pytest.mark.parametrize("draw", DRAWINGS)
def test_a_figure_brings_nothing_of_its_own(draw):
    """No style for the whole page, no address, no metadata, no fonts, no fixed colours."""
    svg = draw("f")
    assert not re.search(r"<style|http|<metadata|<!|<\?|font-family|matplotlib\.org|@import", svg)
    assert re.findall(r"#[0-9a-f]{6}\b", svg) == []
    assert "var(--bar)" in svg
    assert "var(--ink)" in svg


@pytest.mark.parametrize("draw", DRAWINGS)
def test_the_same_numbers_give_the_same_bytes(draw):
    assert draw("f") == draw("f")
    assert draw("f").replace("f-", "g-").replace('id="f"', 'id="g"') == draw("g")


def test_the_users_own_matplotlib_settings_are_neither_used_nor_changed():
    before = draw_fit(FITS, "f")
    with matplotlib.rc_context({"axes.labelsize": 33, "axes.linewidth": 9, "svg.fonttype": "path"}):
        assert draw_fit(FITS, "f") == before
        assert (matplotlib.rcParams["axes.labelsize"], matplotlib.rcParams["svg.fonttype"]) == (33, "path")


def test_a_histogram_says_what_it_shows():
    svg = draw_histogram(NUMBERS, "f", "seconds", "frames")
    low, median, high = (f"{NUMBERS.quantiles[at]:.4g}" for at in ("shortest", "median", "longest"))
    label = f"Histogram of seconds: 400 frames from {low} to {high}, median {median}"
    assert parsed(svg).get("aria-label") == label
    assert {"seconds", "frames", "0"} <= set(words(svg))


def bar_heights(svg: str) -> list[float]:
    """Of the one filled shape, from left to right: the y of each level stretch, 0 at the axis."""
    (path,) = [each for each in parsed(svg).iter(f"{SVG}path") if (each.get("style") or "") == "fill: var(--bar)"]
    points = [tuple(map(float, point)) for point in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path.get("d"))]
    floor = max(y for _, y in points)
    level = [y for (x, y), (after, again) in pairwise(points) if y == again and x < after]
    return [floor - y for y in level]


def test_bars_are_as_high_as_counts():
    shown = histogram(np.repeat(np.arange(8), [1, 2, 3, 4, 8, 5, 6, 7]))
    heights = bar_heights(draw_histogram(shown, "f", "tokens"))
    np.testing.assert_allclose(np.asarray(heights) / heights[0], [1, 2, 3, 4, 8, 5, 6, 7], rtol=1e-4)


def test_ticks_of_whole_numbers_are_whole():
    shown = histogram(np.asarray([7, 8, 8, 9, 10]))
    numbers = [text for text in words(draw_histogram(shown, "f", "tokens")) if text[0].isdigit()]
    assert {"7", "8", "9", "10"} <= set(numbers)
    assert not [number for number in numbers if "." in number]


def test_large_counts_are_short():
    counts = np.full(8, 2_500_000)
    shown = histogram(np.arange(8))
    shown = type(shown)(shown.edges, counts, shown.quantiles, True, 0)
    assert "2M" in words(draw_histogram(shown, "f", "tokens"))


@pytest.mark.parametrize(("at", "anchor"), [(1.0, "start"), (20.0, "end")])
def test_a_mark_stands_on_the_side_with_room(at, anchor):
    svg = draw_histogram(NUMBERS, "f", "norm", mark=("pad", at))
    (mark,) = [each for each in parsed(svg).iter(f"{SVG}text") if each.text == "pad"]
    assert f"text-anchor: {anchor}" in mark.get("style")
    assert "fill: var(--mark)" in mark.get("style")


def test_letters_stay_inside_the_figure():
    for svg in (draw_histogram(NUMBERS, "f", "seconds"), draw_fit(FITS, "f")):
        _, _, width, height = map(float, parsed(svg).get("viewBox").split())
        for text in parsed(svg).iter(f"{SVG}text"):
            if text.get("x"):
                assert 0 < float(text.get("x")) < width
                assert 0 < float(text.get("y")) < height


def test_the_fit_names_its_line_and_its_colours():
    shown = fit(np.repeat([4, 9, 30], [1, 5, 60]), np.repeat([2, 5, 12], [1, 5, 60]))
    svg = draw_fit(shown, "f")
    label = parsed(svg).get("aria-label")
    pads = f"{shown.pad_share:.0%} of all vectors are pads"
    assert label == f"Utterances by output vectors and tokens: 66 utterances, {pads}"
    assert words(svg)[-6:] == ["tokens + 1 = vectors", "1 utterance", "2 to 4", "5 to 11", "12 to 26", "27 to 60"]
    assert "1 to 15 utterances" in words(draw_fit(fit(np.full(10**6, 9), np.full(10**6, 4)), "f"))


def test_each_cell_is_drawn_once():
    svg = draw_fit(FITS, "f")
    shapes = re.findall(r'<path d="([^"]*)" clip-path="[^"]*" style="fill: var\(--bar\)', svg)
    cells = sum(shape.count("M ") for shape in shapes)
    assert cells == (FITS.utterances > 0).sum()


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (1, [(1, 1)]),
        (2, [(1, 1), (2, 2)]),
        (5, [(1, 1), (2, 2), (3, 3), (4, 5)]),
        (60, [(1, 1), (2, 4), (5, 11), (12, 26), (27, 60)]),
    ],
)
def test_levels_of_counts(most, expected):
    assert levels(most) == expected


def test_every_count_has_a_level():
    for most in [*range(1, 200), 10**7, 30_000_000]:
        ranges = levels(most)
        assert (ranges[0][0], ranges[-1][1]) == (1, most)
        assert all(before[1] + 1 == after[0] for before, after in pairwise(ranges))
        assert len(ranges) <= len(figures.OPACITIES)


def test_matplotlib_is_quiet_and_only_meanwhile():
    log = logging.getLogger("matplotlib")
    level = log.level
    with figures._figure(figures.SIZE):
        assert not log.isEnabledFor(logging.WARNING)
    assert log.level == level


SWEPT = Curve("", [1.0, 4.0], [2.0, 3.5], [1.5, 3.0], [2.5, 4.0])


def test_a_sweep_tells_its_ends():
    svg = draw_sweep(CURVES, "f", ("alpha", "WER %"))
    label = "WER % by alpha: gaussian from 2 at 0 to 90 at 1; mix from 2 at 0 to 70 at 1"
    assert parsed(svg).get("aria-label") == label
    assert {"gaussian", "mix", "alpha", "WER %"} <= set(words(svg))
    assert "all from 2 at 1 to 3.5 at 4" in parsed(draw_sweep([SWEPT], "f", ("a", "b"))).get("aria-label")


def test_curves_of_a_sweep_differ_by_more_than_colour():
    assert len({(marker, dashes) for _, marker, dashes in figures.LINES}) == figures.MOST_CURVES
    assert len({marker for _, marker, _ in figures.LINES}) == figures.MOST_CURVES


def test_points_of_a_sweep_may_stand_alone():
    joined, alone = (draw_sweep([SWEPT], "f", ("a", "b"), joined=each) for each in (True, False))
    assert len(joined) > len(alone)


@pytest.mark.parametrize(("values", "logarithmic"), [([1.0, 4.0], False), ([1e-5, 1e-3], True), ([0.0, 100.0], False)])
def test_settings_far_apart_have_a_logarithmic_axis(values, logarithmic):
    svg = draw_sweep([Curve("", values, [1.0, 2.0], [1.0, 2.0], [1.0, 2.0])], "f", ("a", "b"))
    assert ("0.0001" in words(svg)) is logarithmic


def test_labels_may_be_any_text():
    """Markup, mathematics and letters that matplotlib's font lacks."""
    attack = 'id="x"><script>alert("1")</script>$\\alpha$ -->'
    curves = [Curve(attack, [1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0]), Curve("音", *[[1.0, 2.0]] * 4)]
    svg = draw_sweep(curves, "f", (attack, "$x_1$"))
    root = parsed(svg)
    assert not [element for element in root.iter() if element.tag.endswith("script")]
    shown = " ".join(words(svg))
    assert '<script>alert("1")</script>$\\alpha$' in shown and "音" in shown and "$x_1$" in shown
    assert '<script>alert("1")</script>' in root.get("aria-label")


def test_matplotlib_is_loaded_by_drawing_alone():
    code = "import sys, sm_pipeline.pages.figures; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("False", "")


def test_the_first_drawing_of_a_new_user_prints_nothing(tmp_path):
    """The font cache is built then, and matplotlib would say so."""
    code = "import tests.pipeline.pages.test_figures as t; t.draw_fit(t.FITS, 'f')"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path), "MPLCONFIGDIR": str(tmp_path), "HOME": str(tmp_path), "PATH": ""},
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert list(tmp_path.glob("fontlist*.json"))


def test_curves_say_what_they_show():
    svg = draw_curves(CURVES, "f", ("error", "WER in %"), mark=("threshold", 0.2), limit=3.0)
    label = "WER in % by error: gaussian from 2 to 90; mix from 2 to 70; threshold at 0.2"
    assert parsed(svg).get("aria-label") == label
    assert {"gaussian", "mix", "error", "WER in %", "threshold"} <= set(words(svg))


def test_one_curve_needs_neither_mark_nor_limit_and_may_be_flat():
    flat = Curve("mix", [0.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0])
    assert "threshold" not in words(draw_curves([flat], "f", ("error", "WER")))
