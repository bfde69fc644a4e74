"""Loading a checkpoint without the progress bars and notes of transformers: stderr is for our own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers while the block runs; errors are still raised."""
    from transformers.utils import logging as messages

    bars, level = messages.is_progress_bar_enabled(), messages.get_verbosity()
    messages.disable_progress_bar()
    messages.set_verbosity(logging.ERROR)
    try:
        with redirect_stderr(StringIO()):  # reading a GGUF draws a progress bar that cannot be switched off
            yield
    finally:
        messages.set_verbosity(level)
        if bars:
            messages.enable_progress_bar()
