"""What differs between runs: settings of about.json as flat names, and which of them vary together.

    flattened({"head": "rows", "run": {"training": {"seed": 1}}})    {"head": "rows", "run.training.seed": 1}
    differing(runs)    [Setting("run.training.objective.alpha", (), (5.0, 7.0, 9.0)), ...]

Settings that split the runs in the same way (the LLM's name and the size of its vocabulary) are one: which of them
makes the difference cannot be told. Versions, checksums, paths and counts are no settings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from speechmapper.eval.report.evaluations import Evaluation

NOT_SETTINGS = re.compile(
    r"(^|\.)(versions|packages|definition|source|rejected|not_asked|finished|prompts?|tasks|chat_template|condition"
    r"|revision|table_scale)(\.|$)|sha256|seconds"
)
DEEPEST = 8
LEVEL = re.compile(r"(?P<kind>[A-Za-z_]\w*)=(?P<level>-?\d+(\.\d+)?)dB(,seed=\d+)?")


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting that differs between runs.

    Attributes:
        name: of the setting. also: names of those that vary together with it.
        values: of each run; None where a run does not have it.
    """

    name: str
    also: tuple[str, ...]
    values: tuple[Any, ...]

    @property
    def numeric(self) -> bool:
        """Whether it can be an axis: at least two different numbers, and nothing else but absence."""
        known = [value for value in self.values if value is not None]
        return len(set(known)) > 1 and all(
            isinstance(value, int | float) and not isinstance(value, bool) for value in known
        )


def flattened(about: Mapping[str, Any], before: str = "", depth: int = DEEPEST) -> dict[str, Any]:
    """Every single value of nested mappings by its dotted name; lists, and what lies too deep, as JSON text."""
    flat: dict[str, Any] = {}
    for key, value in about.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping) and value and depth:
            flat |= flattened(value, f"{name}.", depth - 1)
        else:
            flat[name] = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
    return flat


def differing(evaluations: Sequence[Evaluation]) -> list[Setting]:
    """The settings that differ between the runs, those that vary together as one, in the order of the records."""
    flat = [
        {name: value for name, value in flattened(run.about).items() if not NOT_SETTINGS.search(name)}
        for run in evaluations
    ]
    by_partition: dict[tuple[int, ...], list[str]] = {}
    for name in dict.fromkeys(name for each in flat for name in each):
        values = [each.get(name) for each in flat]
        partition = tuple(map(values.index, values))
        if any(partition):
            by_partition.setdefault(partition, []).append(name)
    found = []
    for names in by_partition.values():
        settings = [Setting(name, (), tuple(each.get(name) for each in flat)) for name in names]
        first = next((each for each in settings if each.numeric), settings[0])
        found.append(Setting(first.name, tuple(name for name in names if name != first.name), first.values))
    return found


def condition_of(about: Mapping[str, Any]) -> str:
    """What was done to the audio (`--degrade`), as it was given; empty for nothing."""
    found = about.get("condition")
    if isinstance(found, Mapping):
        found = found.get("degrade", dict(found))
    return "" if found is None else setting_text(found)


def noise_of(about: Mapping[str, Any]) -> tuple[str, float] | None:
    """Kind and signal-to-noise ratio in dB of a condition that is one noise and nothing else."""
    match = LEVEL.fullmatch(condition_of(about).strip())
    return (match["kind"], float(match["level"])) if match else None


def setting_text(value: Any) -> str:
    """A value as text."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
