"""`make bench`: what one would use instead, side by side, as ratios within one run.

python tests/bench/run.py [--gigabytes 0.6] [--million 0] [--layers 0] [--steps 0] [--texts 0] [--answers 0]
    [--predictions 0]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import decoding
import encoding
import opening
import reading
import rescoring
import scoring
import training
import tuning
import writing
from rich.console import Console
from rich.table import Table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=0.6, help="of features to read")
    parser.add_argument("--million", type=float, default=3, help="utterances of the synthetic catalog; 0: none")
    parser.add_argument("--layers", type=int, default=2, help="of the encoder to extract with; 0: no extraction")
    parser.add_argument("--steps", type=int, default=training.STEPS, help="of training to time; 0: no training")
    parser.add_argument("--texts", type=int, default=decoding.Options.texts, help="an LLM repeats; 0: no decoding")
    parser.add_argument("--answers", type=int, default=tuning.Options().batch, help="of one batch of stage 2; 0: none")
    parser.add_argument("--predictions", type=int, default=rescoring.LINES, help="to score again; 0: none")
    parser.add_argument("--folder", type=Path, default=None, help="where to write; default: the system's")
    options = parser.parse_args()
    console = Console(file=sys.stdout)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch)
        rates = reading.measure(folder, options.gigabytes)
        ceiling = rates["preadv, bare"]
        console.print(
            in_columns("Reading to padded tensors, warm where nothing is said", rates, ceiling, "bare preadv")
        )
        for layout in ("zarr", "webdataset"):
            rates = writing.measure(folder / f"write-{layout}", layout)
            console.print(in_columns(f"Writing a shard ({layout})", rates, rates["write + fsync"], "write + fsync"))
        if options.layers:
            console.print(encoding.measure(folder / "encoding", "cpu", options.layers, encoding.UTTERANCES))
        if options.steps:
            for table in training.measure(folder / "training", training.Options(steps=options.steps)):
                console.print(table)
            console.print(scoring.measure(scoring.Options()))
        if options.texts:
            console.print(decoding.measure(decoding.Options(texts=options.texts)))
        if options.answers:
            console.print(tuning.measure(tuning.Options(batch=options.answers)))
        if options.predictions:
            console.print(rescoring.measure(folder, options.predictions))
        if options.million:
            console.print(opening.measure(folder / "catalog", int(options.million * 1e6)))


def in_columns(title: str, rates: dict[str, float], unit: float, name: str) -> Table:
    table = Table(title=title)
    for column in ("", "GB/s", f"of {name}"):
        table.add_column(column, justify="right" if column else "left")
    for label, rate in rates.items():
        table.add_row(label, f"{rate:.2f}", f"{rate / unit:.2f}")
    return table


if __name__ == "__main__":
    main()
