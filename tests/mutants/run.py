"""Breaks the code on purpose, one place at a time, and shows that a test notices: `make mutants`.

    python tests/mutants/run.py                    every mutant; exit code 1 if one survives
    python tests/mutants/run.py label-shift        those named
    python tests/mutants/run.py --table            the table of docs/testing.md

Each mutant is applied to a copy of the tracked files in a temporary folder, and only the tests named beside it run
there: a mutant that they do not notice has survived.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.mutants.mutants import MUTANTS, Mutant  # noqa: E402  # the path above is needed first

TESTS_FAILED = 1  # pytest's exit code
FAILED = re.compile(r"^FAILED (\S+)", re.MULTILINE)


def copy_sources(folder: Path) -> None:
    """What git tracks, and what it does not ignore, as it is in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)


def run(mutant: Mutant, folder: Path) -> tuple[str | None, str]:
    """The test that noticed the mutant, or None; and the end of pytest's output."""
    path = folder / mutant.file
    sound = path.read_text(encoding="utf-8")
    path.write_text(mutant.applied(sound), encoding="utf-8")
    places = os.pathsep.join(str(folder / root) for root in (".", "pipeline", "store"))
    line = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-rf", "-p", "no:cacheprovider", *mutant.tests]
    try:
        done = subprocess.run(
            line, cwd=folder, env={**os.environ, "PYTHONPATH": places}, capture_output=True, text=True, check=False
        )
    finally:
        path.write_text(sound, encoding="utf-8")
    failed = FAILED.search(done.stdout)
    return (failed[1] if done.returncode == TESTS_FAILED and failed else None), done.stdout[-2000:]


def main(names: list[str]) -> int:
    """Run the mutants named, or all; returns the exit code."""
    if names == ["--table"]:
        print("| mutant | what is broken | noticed by |\n|---|---|---|")
        for mutant in MUTANTS:
            print(f"| `{mutant.name}` | {mutant.what} | `{mutant.tests[0]}` |")
        return 0
    survivors = []
    with tempfile.TemporaryDirectory() as scratch:
        copy_sources(Path(scratch))
        for mutant in MUTANTS:
            if names and mutant.name not in names:
                continue
            start = time.perf_counter()
            noticed, output = run(mutant, Path(scratch))
            print(f"{mutant.name:24} {time.perf_counter() - start:5.1f} s  {noticed or 'SURVIVED'}", flush=True)
            if noticed is None:
                survivors.append(mutant.name)
                print(output)
    print(f"{len(survivors)} of {len(names or MUTANTS)} mutants survived {' '.join(survivors)}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
