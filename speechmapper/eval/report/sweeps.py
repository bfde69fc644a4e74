"""Settings that differ between runs against the main metrics, as plots.

    sweeps(evaluations)
      -> [Sweep("asr: run.training.objective.alpha", figures=["<svg ...>"]),
          Sweep("asr: head", bars=[Bars("WER %", [Bar("rows", "E_rows", "2.30", 0.1), ...])])]

Numbers become curves: a line joins runs that agree in every other setting. Other values become bars. WER over the
signal-to-noise ratio is a sweep too, of runs with conditions like `noise=10dB`; a run without a condition is the dashed
line.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sm_pipeline.pages.figures import MOST_CURVES, Curve, draw_sweep
from speechmapper.eval.report.evaluations import Evaluation, interval, number
from speechmapper.eval.report.settings import Setting, condition_of, differing, noise_of, setting_text
from speechmapper.eval.report.shown_metrics import MAIN, Metric, present, scaled, written
from speechmapper.eval.report.tables import ABSENT, on_one_line

MOST_SETTINGS = 10  # of a task, that are drawn
MOST_NAMES = 3  # of settings that vary together
RECORDED = "as recorded"  # audio that nothing was done to
SHORT = 24  # characters of a value in a legend


@dataclass(frozen=True, slots=True)
class Bar:
    """A value of a setting, the run that has it, and its metric as text and as a share of the largest one."""

    value: str
    run: str
    text: str
    share: float


@dataclass(frozen=True, slots=True)
class Bars:
    """The runs by one setting, in one metric."""

    label: str
    bars: Sequence[Bar]


@dataclass(frozen=True, slots=True)
class Sweep:
    """A setting against the metrics; `note`: what varies with it, and what could not be drawn."""

    title: str
    note: str = ""
    figures: Sequence[str] = field(default_factory=tuple)
    bars: Sequence[Bars] = field(default_factory=tuple)


def sweeps(evaluations: Sequence[Evaluation]) -> list[Sweep]:
    """The sweeps of each task that has at least two runs."""
    found: list[Sweep] = []
    for task in dict.fromkeys(run.task for run in evaluations):
        runs = [run for run in evaluations if run.task == task]
        if len(runs) > 1:
            found += _of_task(task, runs, f"sweep-{len(found)}")
    return found


def _of_task(task: str, runs: Sequence[Evaluation], name: str) -> list[Sweep]:
    settings = differing(runs)
    metrics = [each for each in present(runs, MAIN) if any(number(run.metrics, each.key) is not None for run in runs)]
    found = _noise_sweeps(task, runs, settings, metrics, name)
    for place, setting in enumerate(settings[:MOST_SETTINGS]):
        title, note = f"{task}: {setting.name}", _together(setting)
        if setting.numeric:
            axis = _Axis(setting.name, setting.values, [each for each in settings if each is not setting])
            figures = [
                _figure(runs, axis, metric, f"{name}-{place}-{at}", keep_conditions=True)
                for at, metric in enumerate(metrics)
            ]
            found.append(Sweep(title, note, [figure for figure in figures if figure]))
        else:
            found.append(Sweep(title, note, bars=[_bars(runs, setting, metric) for metric in metrics]))
    left = settings[MOST_SETTINGS:]
    if left:
        found.append(Sweep(f"{task}: not drawn", f"These differ too: {', '.join(each.name for each in left)}."))
    return found


@dataclass(frozen=True, slots=True)
class _Axis:
    """What a curve is drawn over: its value of each run (None: not on it), and the settings that tell curves apart."""

    label: str
    values: Sequence[Any]
    others: Sequence[Setting]


def _together(setting: Setting) -> str:
    if not setting.also:
        return ""
    more = f" and {len(setting.also) - MOST_NAMES} more" if len(setting.also) > MOST_NAMES else ""
    return f"Varies together with {', '.join(setting.also[:MOST_NAMES])}{more}."


def _noise_sweeps(
    task: str, runs: Sequence[Evaluation], settings: Sequence[Setting], metrics: Sequence[Metric], name: str
) -> list[Sweep]:
    levels = [noise_of(run.about) for run in runs]
    found = []
    for kind in dict.fromkeys(level[0] for level in levels if level):
        values = [level[1] if level and level[0] == kind else None for level in levels]
        if len({value for value in values if value is not None}) < 2:
            continue
        clean = [run for run in runs if not condition_of(run.about)]
        axis = _Axis(f"signal-to-noise ratio of {kind}, dB", values, settings)
        figures = [
            _figure(runs, axis, metric, f"{name}-{kind}-{at}", clean=clean[0] if len(clean) == 1 else None)
            for at, metric in enumerate(metrics)
        ]
        note = f"Dashed: {clean[0].name}, without noise." if len(clean) == 1 else ""
        found.append(Sweep(f"{task}: {kind}", note, [figure for figure in figures if figure]))
    return found


def _figure(
    runs: Sequence[Evaluation],
    axis: _Axis,
    metric: Metric,
    name: str,
    clean: Evaluation | None = None,
    keep_conditions: bool = False,
) -> str:
    """One metric over the axis; empty where fewer than two runs have it."""
    groups: dict[tuple[Hashable, ...], list[tuple[float, Evaluation]]] = {}
    for place, (run, value) in enumerate(zip(runs, axis.values, strict=True)):
        if value is None or number(run.metrics, metric.key) is None:
            continue
        group = tuple((each.name, each.values[place]) for each in axis.others)
        group += (("condition", condition_of(run.about) or RECORDED),) if keep_conditions else ()
        groups.setdefault(group, []).append((float(value), run))
    if sum(map(len, groups.values())) < 2:
        return ""
    telling = _telling(groups)
    curves = [
        _curve(_label(group, telling), sorted(points, key=lambda point: point[0]), metric)
        for group, points in groups.items()
    ]
    if len(curves) > MOST_CURVES:
        everything = sorted((point for points in groups.values() for point in points), key=lambda point: point[0])
        curves = [_curve("", everything, metric)]
    level = number(clean.metrics, metric.key) if clean else None
    limit = None if level is None else scaled(level, metric)
    return draw_sweep(curves, name, (axis.label, metric.label), limit, joined=len(groups) <= MOST_CURVES)


def _telling(groups: Iterable[tuple[Hashable, ...]]) -> list[int]:
    """Places of the settings that differ between the groups."""
    columns = list(zip(*groups, strict=True))
    return [place for place, column in enumerate(columns) if len(set(column)) > 1]


def _label(group: Sequence[Any], telling: Sequence[int]) -> str:
    """The settings of a curve that others do not have: `head=rows, seed=1`, by the last part of their names."""
    pairs = [(group[place][0].rpartition(".")[2], setting_text(group[place][1])) for place in telling]
    return ", ".join(f"{on_one_line(name)[:SHORT]}={on_one_line(value)[:SHORT] or 'none'}" for name, value in pairs)


def _curve(label: str, points: Sequence[tuple[float, Evaluation]], metric: Metric) -> Curve:
    values = [scaled(number(run.metrics, metric.key) or 0.0, metric) for _, run in points]
    bounds = [interval(run.metrics, metric.key) for _, run in points]
    low, high = (
        [scaled(found[end], metric) if found else value for found, value in zip(bounds, values, strict=True)]
        for end in (0, 1)
    )
    return Curve(label, [at for at, _ in points], values, low, high)


def _bars(runs: Sequence[Evaluation], setting: Setting, metric: Metric) -> Bars:
    found = [number(run.metrics, metric.key) for run in runs]
    largest = max((abs(value) for value in found if value is not None), default=0.0)
    bars = [
        Bar(
            ABSENT if at is None else on_one_line(setting_text(at)),
            run.name,
            ABSENT if value is None else written(value, metric),
            0.0 if value is None or not largest else abs(value) / largest,
        )
        for run, value, at in zip(runs, found, setting.values, strict=True)
    ]
    return Bars(metric.label, sorted(bars, key=lambda bar: bar.value))
