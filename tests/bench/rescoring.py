"""How long `sm-eval score` takes: ASR predictions of 20 words, with all metrics, intervals and parts.

    python tests/bench/rescoring.py [--lines 100000] [--folder F]

References and outputs are drawn with a fixed seed from a few words, half in English, half in German; one word of ten is
wrong, one output of a hundred repeats itself. The figure is of the whole command, in a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from speechmapper.eval.predictions import write_predictions

LINES, WORDS, WRONG, REPEATED = 100_000, 20, 0.1, 0.01
SPEAKERS, CORPORA = 200, 4
VOCABULARY = {
    "en": "the dog slept by river all night and nobody knew where old red boat had gone when they came back from "
    "London with their friends who asked about weather in Paris before Anna could answer any of those questions again",
    "de": "der Hund schlief am Fluss die ganze Nacht und niemand wusste wo das alte rote Boot geblieben war als sie "
    "aus London mit ihren Freunden kamen die nach dem Wetter in Paris fragten bevor Anna wieder antworten konnte",
}


def predictions(lines: int) -> list[dict[str, object]]:
    """Lines as `sm-eval asr` writes them."""
    rng = np.random.default_rng(5)
    made: list[dict[str, object]] = []
    for number in range(lines):
        lang = ("en", "de")[number % 2]
        words = VOCABULARY[lang].split()
        said = rng.integers(len(words), size=WORDS)
        found = np.where(rng.random(WORDS) < WRONG, rng.integers(len(words), size=WORDS), said)
        output = " ".join(words[each] for each in found)
        made.append(
            {
                "id": f"utt-{number:06}",
                "lang": lang,
                "speaker": f"speaker-{rng.integers(SPEAKERS)}",
                "corpus": f"corpus-{rng.integers(CORPORA)}",
                "reference": " ".join(words[each] for each in said).capitalize() + ".",
                "output": f"{output} {output}" if rng.random() < REPEATED else output,
                "stop": "end",
            }
        )
    return made


def measure(folder: Path, lines: int) -> Table:
    """Seconds of the command."""
    out = folder / "rescoring"
    write_predictions(out, predictions(lines), {"task": "asr"})
    command = [sys.executable, "-m", "speechmapper.eval.cli", "score", str(out), "--by", "speaker,lang,corpus"]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - started
    table = Table("predictions", "seconds", "aim", title="sm-eval score --by speaker,lang,corpus")
    table.add_row(f"{lines:,}", f"{seconds:.1f}", "60 of 100,000")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=LINES)
    parser.add_argument("--folder", type=Path, default=None, help="where to write; default: the system's")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        Console(file=sys.stdout).print(measure(Path(scratch), options.lines))


if __name__ == "__main__":
    main()
