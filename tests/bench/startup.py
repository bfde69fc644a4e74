"""What `plan` and `extract` do before any audio is read: a manifest read, checked and cut into units, by its lines.

python tests/bench/startup.py [--lines 1000000] [--folder /tmp]

Audio files need not exist: each path is looked up once, for links that lead outside, which a real corpus takes a
little longer for. CPU seconds, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from sm_pipeline.extraction.plan import UnitRule, plan_units
from sm_pipeline.manifest import read_manifest

BYTES_PER_SECOND = 25 * 1024 * 2.0


def line(number: int) -> str:
    """A manifest line of usual length."""
    return json.dumps(
        {
            "id": f"utterance-{number:08d}",
            "audio": f"audio/{number // 1000:05d}/{number:08d}.flac",
            "text": "he hoped there would be stew for dinner turnips and carrots and bruised potatoes",
            "duration": round(1.5 + number * 37 % 1500 / 100, 2),
            "lang": "en",
            "speaker": f"speaker-{number % 500}",
            "split": "train",
        }
    )


def measure(folder: Path, lines: int) -> dict[str, float]:
    """CPU seconds of each part, and the peak of memory in bytes."""
    manifest = folder / "manifest.jsonl"
    with manifest.open("w", encoding="utf-8") as out:
        out.writelines(f"{line(number)}\n" for number in range(lines))
    began = time.process_time()
    utterances = read_manifest(manifest).select("train")
    read = time.process_time()
    units = plan_units(utterances, UnitRule(BYTES_PER_SECOND))
    planned = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"read": read - began, "plan": planned - read, "units": len(units), "peak_bytes": peak}


def main() -> None:
    """Print the figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the manifest is written for a while")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        sys.stdout.write(json.dumps(measure(Path(scratch), options.lines)) + "\n")


if __name__ == "__main__":
    main()
