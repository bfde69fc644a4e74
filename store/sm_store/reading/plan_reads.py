"""Which bytes to read for which records, in what order: pure arithmetic, no files.

    records 7, 3, 8 of one file, wanted at buffer positions 0, 6144, 12288
      -> Run(file 0, offset 3000, [(6144, 2048)]), Run(file 0, offset 9000, [(0, 2048), (12288, 1024)])

Records that follow each other in a file become one run: one `preadv` that scatters them to their places in
the padded batch. Runs come in file order, so that disks read sequentially.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

_MOST_PIECES = 512  # half of Linux's IOV_MAX
_WORTH_A_THREAD = 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Run:
    """One contiguous read.

    Attributes:
        file: ordinal of the file. offset: first byte.
        wanted: positions in the request, in file order; `dests` and `sizes` say where each goes, in bytes.
    """

    file: int
    offset: int
    wanted: list[int]
    dests: list[int]
    sizes: list[int]

    @property
    def size(self) -> int:
        """Bytes of the whole run."""
        return sum(self.sizes)

    def pieces(self, buffer: memoryview) -> list[memoryview]:
        """Where each record goes in a batch buffer of bytes."""
        return [buffer[dest : dest + size] for dest, size in zip(self.dests, self.sizes, strict=True)]


def plan_reads(files: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, dests: np.ndarray) -> list[Run]:
    """The reads that fetch `sizes[i]` bytes at `offsets[i]` of file `files[i]` to `dests[i]`, for every i.

    Args: four integer arrays of one length. Empty records (size 0) are left out.
    """
    order = np.lexsort((offsets, files))
    order = order[sizes[order] > 0]
    if not len(order):
        return []
    file, start, size = files[order], offsets[order], sizes[order]
    follows = (file[1:] == file[:-1]) & (start[1:] == start[:-1] + size[:-1])
    cuts = _cuts(follows)
    wanted, places, lengths = order.tolist(), dests[order].tolist(), size.tolist()
    return [Run(int(file[a]), int(start[a]), wanted[a:b], places[a:b], lengths[a:b]) for a, b in pairwise(cuts)]


def shares(runs: Sequence[Run], most: int) -> list[Sequence[Run]]:
    """The runs as up to `most` parts of about as many bytes, none too small for a thread of its own."""
    sizes = np.cumsum([run.size for run in runs])
    count = min(most, int(sizes[-1]) // _WORTH_A_THREAD) if len(runs) else 0
    if count < 2:
        return [runs]
    cuts = np.searchsorted(sizes, np.arange(1, count) * (int(sizes[-1]) / count)) + 1
    return [part for a, b in pairwise([0, *cuts.tolist(), len(runs)]) if len(part := runs[a:b])]


def _cuts(follows: np.ndarray) -> list[int]:
    """Where runs begin, and the end: after every gap, and after _MOST_PIECES records without one."""
    cuts = [0]
    for gap in [*(np.flatnonzero(~follows) + 1).tolist(), len(follows) + 1]:
        while gap - cuts[-1] > _MOST_PIECES:
            cuts.append(cuts[-1] + _MOST_PIECES)
        cuts.append(gap)
    return cuts
