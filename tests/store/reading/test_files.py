"""Data files: their sizes are checked, and few stay open."""

from __future__ import annotations

import gc
import os

from sm_store.durable import Written
from sm_store.reading.files import ShardFiles, sizes_of


def test_no_more_than_so_many_files_stay_open(tmp_path):
    for number in range(300):
        (tmp_path / str(number)).write_bytes(b"1")
    files = ShardFiles(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    held = files.get("0", Written(1, 0))
    for number in range(300):
        files.get(str(number), Written(1, 0))
    assert len(os.listdir("/proc/self/fd")) <= before + 257
    assert os.pread(held.fd, 1, 0) == b"1"  # still open for who holds it
    del files, held
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_sizes_of(tmp_path):
    (tmp_path / "f").write_bytes(b"123")
    assert sizes_of([tmp_path / "f", tmp_path / "g", tmp_path / "f" / "x"]) == [3, None, None]
