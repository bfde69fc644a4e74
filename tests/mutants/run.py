"""Breaks the code on purpose, one place at a time, and shows that a test notices: `make mutants`.

    python tests/mutants/run.py                    every mutant; exit code 1 if one survives
    python tests/mutants/run.py cosine-sign        those named

Each mutant is applied to a copy of the tracked files in a temporary folder, and only the tests named beside it run
there: a mutant that they do not notice has survived. What is printed is the table of docs/testing.md.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.mutants.mutants import MUTANTS, Mutant  # noqa: E402  # the path above is needed first

TESTS_FAILED = 1  # pytest's exit code
FAILED = re.compile(r"^FAILED (\S+)", re.MULTILINE)


def say(text: str) -> None:
    """A line on stdout, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def copy_sources(folder: Path) -> None:
    """What git tracks, and what it does not ignore, as it is in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)


def pytest(folder: Path, tests: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run tests of the copy in `folder` on the sources there, up to the first that fails."""
    places = os.pathsep.join(str(folder / root) for root in (".", "pipeline", "store"))
    line = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-rf", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": places}
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def noticed_by(mutant: Mutant, folder: Path) -> tuple[str | None, str]:
    """The test that fails with the mutant and passes without it, or None; and the end of pytest's output."""
    path = folder / mutant.file
    sound = path.read_text(encoding="utf-8")
    path.write_text(mutant.applied(sound), encoding="utf-8")
    try:
        done = pytest(folder, mutant.tests)
    finally:
        path.write_text(sound, encoding="utf-8")
    failed = FAILED.search(done.stdout)
    if done.returncode != TESTS_FAILED or failed is None:
        return None, done.stdout[-2000:]
    without = pytest(folder, [failed[1]])
    return (failed[1] if without.returncode == 0 else None), without.stdout[-2000:]


def main(names: list[str]) -> int:
    """Run the mutants named, or all; prints a Markdown table, returns the exit code."""
    survivors = []
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    say("| mutant | what is broken | noticed by | s |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        copy_sources(Path(scratch))
        for mutant in chosen:
            start = time.perf_counter()
            noticed, output = noticed_by(mutant, Path(scratch))
            seen = f"`{noticed.removeprefix('tests/')}`" if noticed else "nothing"
            say(f"| `{mutant.name}` | {mutant.what} | {seen} | {time.perf_counter() - start:.0f} |")
            if noticed is None:
                survivors.append(mutant.name)
                sys.stderr.write(f"{output}\n")
    say(f"\n{len(survivors)} of {len(chosen)} mutants survived {' '.join(survivors)}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
