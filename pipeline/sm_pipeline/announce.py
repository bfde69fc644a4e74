"""A line on stderr for work that has no progress to show and takes more than a second, such as loading a model.

with announced("loading encoder facebook/seamless-m4t-v2-large"):
    ...                                              after one second: loading encoder facebook/...
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

AFTER = 1.0  # seconds


@contextmanager
def announced(words: str, after: float = AFTER) -> Iterator[None]:
    """Write `words` as a line once the block has run for `after` seconds; nothing where it ends before."""
    timer = threading.Timer(after, _write, (words,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _write(words: str) -> None:
    sys.stderr.write(f"{words} ...\n")
    sys.stderr.flush()
