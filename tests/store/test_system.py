"""What other systems lack: the store does without."""

from __future__ import annotations

import os
import subprocess
import sys

from sm_store import Store
from sm_store.system import advise, cpus
from tests.store import building


def test_processors_and_advice_here(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    for what in ("WILLNEED", "DONTNEED"):
        advise(fd, 0, 3, what)
    assert os.read(fd, 3) == b"abc" and cpus() >= 1
    os.close(fd)


def test_a_store_is_read_without_the_calls_of_linux(tmp_path):
    """What macOS lacks is taken away before the import; the same bytes are read."""
    code = (
        "import os, mmap, sys\n"
        "for name in ('sched_getaffinity', 'posix_fadvise', 'RWF_NOWAIT', 'posix_fallocate', 'sched_setaffinity',\n"
        "             'copy_file_range', 'sendfile', 'memfd_create', 'O_DIRECT', 'O_TMPFILE'):\n"
        "    if hasattr(os, name): delattr(os, name)\n"
        "if hasattr(mmap, 'MADV_HUGEPAGE'): del mmap.MADV_HUGEPAGE\n"
        "from sm_store import Store\n"
        "from sm_store.system import cpus\n"
        "store = Store.open(sys.argv[1])\n"
        "assert cpus() >= 1 and len(store) == 15\n"
        "print(store[14].features.tobytes().hex(), *store.read([0, 14]).features_BTD.shape)"
    )
    building.build(tmp_path / "store")
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store")], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    store = Store.open(tmp_path / "store")
    shape = " ".join(map(str, store.read([0, 14]).features_BTD.shape))
    assert run.stdout == f"{store[14].features.tobytes().hex()} {shape}\n"
