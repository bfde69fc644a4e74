"""Collect what `run.sh` measured into OUT/results.json and print it as a table.

python results.py OUT SECONDS
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def collect(out: Path, seconds: float) -> dict[str, Any]:
    """The figures of a finished demo; all of the test split."""
    extract = read_json(out / "extract.json")
    runs = {path.name: read_json(path / "metrics.json") for path in (out / "eval").iterdir()}
    return {
        "extract": {"hours": extract["hours"], "x_realtime": extract["x_realtime"]},
        "baseline": {"wer": runs["untrained"]["wer"]},
        "stage1": {
            "wer": runs["stage1"]["wer"],
            "relative_mse": runs["stage1"]["relative_mse"],
        },
        "stage2": {"wer": runs["stage2"]["wer"]},
        "utterances": runs["stage1"]["utterances"],
        "seconds": seconds,
    }


def print_table(results: dict[str, Any]) -> None:
    table = Table(title=f"Held-out test split, {results['utterances']} utterances never seen in training")
    for name, justify in (("projector", "left"), ("read out by", "left"), ("WER", "right")):
        table.add_column(name, justify=justify)
    rows = (
        ("untrained", "nearest token", results["baseline"]["wer"]),
        ("stage 1", "nearest token", results["stage1"]["wer"]),
        ("stage 2", "frozen LLM", results["stage2"]["wer"]),
    )
    for projector, reader, wer in rows:
        table.add_row(projector, reader, f"{wer:.3f}")
    console = Console()
    console.print()
    console.print(table)
    extract = results["extract"]
    console.print(
        f"{extract['hours']:.2f} hours of speech, encoded {extract['x_realtime']:.0f} times faster than real time; "
        f"relative MSE after stage 1 {results['stage1']['relative_mse']:.2g}; {results['seconds']:.0f} s in all"
    )


def main() -> None:
    out, seconds = Path(sys.argv[1]), float(sys.argv[2])
    results = collect(out, seconds)
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print_table(results)


if __name__ == "__main__":
    main()
