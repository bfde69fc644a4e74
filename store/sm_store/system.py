"""Calls that Linux has and other systems, such as macOS, lack: there the store is read all the same, a little slower.

cpus()                                    8
advise(fd, 0, 4096, "WILLNEED")           the system starts to read these bytes; elsewhere nothing happens
os.preadv(fd, pieces, 0, ONLY_CACHED)     fails where the disk is needed; None where that cannot be asked for
"""

from __future__ import annotations

import os

ONLY_CACHED: int | None = getattr(os, "RWF_NOWAIT", None)


def cpus() -> int:
    """Processors that this process may use; where the system does not tell, all there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def advise(fd: int, start: int, size: int, what: str) -> None:
    """Tell the system how bytes of a file will be used: `what` of POSIX_FADV_what."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, start, size, getattr(os, f"POSIX_FADV_{what}"))
