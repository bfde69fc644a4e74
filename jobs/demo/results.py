"""Collect what `run.sh` measured into OUT/results.json and print it as a table.

python results.py OUT SECONDS
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
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
        **stages(runs, ""),
        "paper": stages(runs, "-paper"),
        "utterances": runs["stage1"]["utterances"],
        "seconds": seconds,
    }


def stages(runs: Mapping[str, Mapping[str, Any]], kind: str) -> dict[str, Any]:
    """What the two stages of one objective reached; `llm_wer` is the LLM's reading of stage 1, with no stage 2."""
    stage1 = runs[f"stage1{kind}"]
    return {
        "stage1": {
            "wer": stage1["wer"],
            "relative_mse": stage1["relative_mse"],
            "llm_wer": runs[f"stage1{kind}-llm"]["wer"],
        },
        "stage2": {"wer": runs[f"stage2{kind}"]["wer"]},
    }


def print_table(results: dict[str, Any]) -> None:
    table = Table(title=f"Held-out test split, {results['utterances']} utterances never seen in training")
    for name, justify in (("projector", "left"), ("objective", "left"), ("read out by", "left"), ("WER", "right")):
        table.add_column(name, justify=justify)
    table.add_row("untrained", "", "nearest token", f"{results['baseline']['wer']:.3f}")
    for objective, reached in (("ctc-embedding (ours)", results), ("mse+cosine (paper)", results["paper"])):
        table.add_row("stage 1", objective, "nearest token", f"{reached['stage1']['wer']:.3f}")
        table.add_row("stage 1", objective, "frozen LLM", f"{reached['stage1']['llm_wer']:.3f}")
        table.add_row("stage 2", objective, "frozen LLM", f"{reached['stage2']['wer']:.3f}")
    console = Console()
    console.print()
    console.print(table)
    extract, relative_mse = results["extract"], results["stage1"]["relative_mse"]
    console.print(
        f"{extract['hours']:.2f} hours of speech, encoded {extract['x_realtime']:.0f} times faster than real time; "
        f"relative MSE of what the LLM is given after stage 1 {relative_mse:.2g}; {results['seconds']:.0f} s in all"
    )


def main() -> None:
    out, seconds = Path(sys.argv[1]), float(sys.argv[2])
    results = collect(out, seconds)
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print_table(results)


if __name__ == "__main__":
    main()
