"""The curve of an LLM's embedding error threshold, as files and on the terminal.

    OUT/eet.json    everything measured (`speechmapper.measure.threshold` reads the threshold back)
    OUT/eet.html    one self-contained page: the curve, its numbers, how it was measured

The same result gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sm_pipeline.pages.figures import Curve, draw_curves
from sm_pipeline.pages.html import render_page
from sm_store.durable import write_file
from sm_store.errors import ConfigError, StoreFormatError
from speechmapper.measure.threshold import EET_FILE

PAGE_FILE = "eet.html"
TEMPLATE = Path(__file__).parent / "templates" / "eet.html.j2"
X_LABEL, Y_LABEL = "relative MSE of the embeddings", "WER in %"


def write_report(out: Path, result: Mapping[str, Any]) -> None:
    """Write eet.json and eet.html, replacing each atomically.

    Raises:
        ConfigError: `out` cannot be written.
    """
    page = render(result).encode()
    try:
        write_file(out / EET_FILE, json.dumps(result, indent=1, ensure_ascii=False).encode() + b"\n")
        write_file(out / PAGE_FILE, page)
    except (OSError, StoreFormatError) as error:
        raise ConfigError(f"--out {out}: cannot be written ({error}); name another folder") from error


def render(result: Mapping[str, Any]) -> str:
    """The page as HTML; `result` is the contents of eet.json."""
    curves = [_curve_of(kind, shown["levels"]) for kind, shown in result["kinds"].items()]
    threshold = result["threshold"]["relative_mse"]
    figure = draw_curves(
        curves, "figure-curve", (X_LABEL, Y_LABEL), mark=("threshold", threshold), limit=100 * result["wer_limit"]
    )
    return render_page(TEMPLATE, result=result, figure=figure, summary=in_words(result))


def in_words(result: Mapping[str, Any]) -> str:
    """The threshold in one line."""
    threshold = result["threshold"]
    size = f"relative MSE {threshold['relative_mse']:.3g} ({threshold['mse']:.3g} per dimension)"
    if threshold["first_failing"] is None:
        return f"threshold: at least {size}, as no level failed; measure larger --levels"
    between = f"between {threshold['last_passing']:.3g} and {threshold['first_failing']:.3g}"
    return f"threshold: {size}, {between}, by {threshold['kind']} noise"


def print_curve(result: Mapping[str, Any]) -> None:
    """Print a table of the levels and the threshold to stdout."""
    from rich.console import Console
    from rich.table import Table

    title = f"WER of {result['texts']['count']} texts repeated by {result['llm']['id']}"
    table = Table(title=title, caption=f"limit: WER {result['wer_limit']:.1%}")
    for name in ("noise", "relative MSE", "MSE", "WER", "range over seeds", "nearest token"):
        table.add_column(name, justify="left" if name == "noise" else "right")
    for kind, shown in result["kinds"].items():
        for entry in shown["levels"]:
            numbers = (f"{entry['relative_mse']:.3g}", f"{entry['mse']:.3g}", f"{entry['wer']:.1%}")
            seeds = "{:.1f} to {:.1f}%".format(*(100 * pick(entry["wer_by_seed"]) for pick in (min, max)))
            table.add_row(kind, *numbers, seeds, f"{entry['nearest_token_accuracy']:.1%}")
        table.add_section()
    console = Console()
    console.print(table)
    console.print(in_words(result), soft_wrap=True, highlight=False)


def _curve_of(kind: str, levels: list[Mapping[str, Any]]) -> Curve:
    return Curve(
        kind,
        [entry["relative_mse"] for entry in levels],
        [100 * entry["wer"] for entry in levels],
        [100 * min(entry["wer_by_seed"]) for entry in levels],
        [100 * max(entry["wer_by_seed"]) for entry in levels],
    )
