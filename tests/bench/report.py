"""A report of many evaluations: its seconds and its bytes.

python tests/bench/report.py [--runs 20] [--predictions 2000] [--folder /tmp/kept]

Seeded evaluations of a made-up corpus: two heads, five weights, noise of some, wrong words of every kind, and a
recording of 3 to 15 seconds for ten utterances each. The aims: 20 runs of 2,000 predictions with 5 recordings each in
under 30 seconds and 8 MB.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from speechmapper.eval.predictions import write_predictions
from speechmapper.eval.report.page import ReportRequest, write_report
from speechmapper.eval.score import score

TEXT = "he hoped there would be stew for dinner turnips and carrots bruised potatoes of Vienna with Anna to Oslo"
WORDS = TEXT.split()
RATE = 16_000
CORPORA = ("librispeech-clean", "librispeech-other", "fleurs")


def write_corpus(folder: Path, utterances: int) -> list[dict]:
    """A manifest with audio of noise and tones; utterances share a tenth as many recordings."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, draw = np.random.default_rng(0), random.Random(0)
    lines = []
    for number in range(utterances):
        audio = f"{number // 10:05d}.flac"
        if number % 10 == 0:
            seconds = draw.uniform(3, 15)
            tone = np.sin(np.arange(int(seconds * RATE)) * draw.uniform(0.02, 0.2)) * 0.2
            soundfile.write(folder / audio, tone + rng.normal(0, 0.02, len(tone)), RATE)
        lines.append(
            {
                "id": f"utterance-{number:05d}",
                "audio": audio,
                "text": " ".join(draw.choices(WORDS, k=draw.randint(5, 30))),
                "lang": "en",
                "speaker": f"speaker-{number % 12}",
                "corpus": CORPORA[number % 3],
                "split": "test",
            }
        )
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return lines


def spoiled(text: str, rate: float, draw: random.Random) -> str:
    """A text with words left out, added and replaced; now and then one that repeats its last word."""
    words: list[str] = []
    for word in text.split():
        what = draw.random() / rate
        words += [] if what < 0.3 else [word, "uh"] if what < 0.6 else [draw.choice(WORDS)] if what < 1 else [word]
    if words and draw.random() < rate / 10:
        words += words[-1:] * 60
    return " ".join(words)


def write_run(folder: Path, number: int, corpus: list[dict], manifest: Path) -> None:
    """One evaluation of the corpus, scored."""
    draw = random.Random(number)
    alpha, head = (1.0, 3.0, 5.0, 7.0, 9.0)[number % 5], "vectors" if number // 5 == 1 else "rows"
    noise = (None, None, "noise=0dB", "noise=20dB")[number // 5 % 4]
    rate = 0.03 + abs(alpha - 5) / 60 + (0.05 if head == "vectors" else 0.0)
    rate += 0.0 if noise is None else 0.2 / (1 + int(noise[6:-2]) / 5)
    predictions = []
    for line in corpus:
        output = spoiled(line["text"], rate, draw)
        predictions.append(
            {
                **{name: line[name] for name in ("id", "lang", "speaker", "corpus")},
                "reference": line["text"],
                "output": output,
                "prompt": "<<<speech>>> Please repeat the quoted text exactly, with nothing added.",
                "stop": "length" if len(output) > 400 else "end",
            }
        )
    about = {
        "task": "asr",
        "readout": "generation",
        "llm": "smollm2-135m",
        "head": head,
        "split": "test",
        "source": str(manifest),
        **({"condition": noise} if noise else {}),
        "run": {"training": {"seed": 1, "objective": {"name": "mse+cosine", "alpha": alpha}}},
    }
    write_predictions(folder, predictions, about)
    score(folder)


def measure(folder: Path, runs: int, predictions: int) -> dict[str, float]:
    """Wall and CPU seconds of a report of that many runs, and its bytes."""
    corpus = write_corpus(folder / "corpus", predictions)
    for number in range(runs):
        write_run(folder / f"run-{number:02d}", number, corpus, folder / "corpus" / "manifest.jsonl")
    places = [str(folder / f"run-{number:02d}") for number in range(runs)]
    wall, cpu = time.perf_counter(), time.process_time()
    written = write_report(ReportRequest(places, folder / "report.html"))
    page = (folder / "report.html").read_text(encoding="utf-8")
    return {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "bytes": written["html"]["bytes"],
        "recordings": page.count("<audio"),
    }


def main() -> None:
    """Print the figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--predictions", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="where everything is kept; default: removed again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        figures = measure(options.folder or Path(scratch), options.runs, options.predictions)
    sys.stdout.write(json.dumps({name: round(value, 2) for name, value in figures.items()}) + "\n")


if __name__ == "__main__":
    main()
