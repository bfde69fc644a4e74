"""A comparison of two evaluations as a table on the terminal.

metric   a       b       difference   95 %               p
wer      0.1000  0.0800  -0.0200      -0.0300 to -0.0100 0.002
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def print_comparison(found: Mapping[str, Any]) -> None:
    """Print what `compare` has found."""
    title = f"{found['task']}: {found['utterances']:,} predictions, {found['resamples']:,} resamples"
    table = Table("metric", found["first"], found["second"], "difference", "95 %", "p", title=title)
    for name, each in found["metrics"].items():
        low, high = each["ci95"] or (None, None)
        interval = "" if low is None else f"{_shown(low)} to {_shown(high)}"
        values = (_shown(each[key]) for key in ("first", "second", "difference"))
        table.add_row(name, *values, interval, "" if each["p"] is None else f"{each['p']:.3f}")
    Console(file=sys.stdout).print(table)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
