"""Sweeps: what becomes a curve, what becomes bars, and what is joined."""

from __future__ import annotations

import re

from speechmapper.eval.report.sweeps import MOST_SETTINGS, Bar, sweeps
from tests.speechmapper.eval.report.made import evaluation


def run(name, wer, **about):
    metrics = {"wer": wer, "wer_ci95": [wer * 0.9, wer * 1.1], "normalizer": "mms-2"}
    return evaluation(name, about={"task": "asr", **about}, metrics=metrics)


def labels(svg):
    return re.search(r'aria-label="([^"]*)"', svg)[1]


def test_numbers_become_a_curve():
    (found,) = sweeps([run("a", 0.1, alpha=5), run("b", 0.2, alpha=7), run("c", 0.15, alpha=6)])
    assert found.title == "asr: alpha" and found.bars == () and len(found.figures) == 1
    assert labels(found.figures[0]) == "WER % by alpha: all from 10 at 5 to 20 at 7"


def test_a_line_joins_runs_that_agree_in_everything_else():
    runs = [run(f"{head}{alpha}", alpha / 10, alpha=alpha, head=head) for head in ("rows", "cif") for alpha in (1, 2)]
    alpha, head = sweeps(runs)
    assert "head=rows from 10 at 1 to 20 at 2; head=cif from 10 at 1 to 20 at 2" in labels(alpha.figures[0])
    (bars,) = head.bars
    assert bars.label == "WER %"
    assert bars.bars[0] == Bar("cif", "cif1", "10.00", 0.5)


def test_more_curves_than_can_be_told_apart_become_points():
    runs = [run(f"{a}-{b}", 0.1 + a / 100, alpha=a, beta=b) for a in (1, 2) for b in range(7)]
    alpha = sweeps(runs)[0]
    assert "all from 11" in labels(alpha.figures[0])


def test_what_varies_together_is_told():
    found = sweeps([run("a", 0.1, llm="x", width=1), run("b", 0.2, llm="y", width=2)])
    assert [(each.title, each.note) for each in found] == [("asr: width", "Varies together with llm.")]


def test_error_over_noise():
    runs = [run("clean", 0.1), *(run(f"n{level}", 0.5 - level / 50, condition=f"noise={level}dB") for level in (0, 10))]
    (found,) = sweeps(runs)
    assert (found.title, found.note) == ("asr: noise", "Dashed: clean, without noise.")
    assert "signal-to-noise ratio of noise, dB: all from 50 at 0 to 30 at 10" in labels(found.figures[0])
    assert "stroke-dasharray" in found.figures[0]


def test_conditions_and_settings_together():
    runs = [
        run(f"{head}-{level}", 0.1, head=head, condition={"degrade": f"babble={level}dB"})
        for head in ("rows", "cif")
        for level in (0, 5)
    ]
    noise, _ = sweeps(runs)
    assert noise.title == "asr: babble" and "head=rows from" in labels(noise.figures[0]) and noise.note == ""
    alphas = sweeps([run("a", 0.1, alpha=1), run("b", 0.2, alpha=2, condition="noise=0dB")])
    assert "condition=as recorded" in labels(alphas[0].figures[0])


def test_single_runs_and_runs_of_other_tasks_are_not_compared():
    assert sweeps([run("a", 0.1, alpha=1)]) == []
    assert sweeps([run("a", 0.1, alpha=1), evaluation("b", about={"task": "st", "alpha": 2})]) == []
    assert sweeps([run("a", 0.1), run("b", 0.2)]) == []


def test_runs_without_the_metric_are_left_out():
    runs = [run("a", 0.1, alpha=1), evaluation("b", about={"task": "asr", "alpha": 2}, metrics={})]
    (found,) = sweeps(runs)
    assert list(found.figures) == []
    bars = sweeps([run("a", 0.1, head="x"), evaluation("b", about={"task": "asr", "head": "y"}, metrics={})])[0].bars
    assert [bar.text for bar in bars[0].bars] == ["10.00", "\u2013"]


def test_too_many_settings_are_named():
    names = [f"s{number}" for number in range(MOST_SETTINGS + 2)]
    runs = [
        run(f"run{at}", 0.1, **{name: f"{name}{at == place}" for place, name in enumerate(names)}) for at in range(13)
    ]
    last = sweeps(runs)[-1]
    assert (last.title, last.note) == ("asr: not drawn", "These differ too: s10, s11.")


def test_what_users_wrote_is_escaped_in_figures():
    attack = '"><script>alert(1)</script>$x$'
    runs = [run(f"{a}{h}", 0.1, **{attack: a}, head=h) for a in (1, 2) for h in (attack, "音")]
    figure = sweeps(runs)[0].figures[0]
    assert "<script" not in figure and "&lt;script" in figure and '"><' not in labels(figure)
