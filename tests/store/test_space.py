"""Room on a disk, before and while something is written."""

from __future__ import annotations

import errno
import shutil
from types import SimpleNamespace

import pytest

from sm_store.errors import RunFailed, StoreError
from sm_store.space import require_space, writing


def test_the_disk_of_a_folder_that_is_not_there_yet(tmp_path, monkeypatch):
    asked = []

    def usage(path):
        asked.append(path)
        return SimpleNamespace(free=3 * 10**9)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    require_space(tmp_path / "a" / "b", 3 * 10**9, "it")
    assert asked == [tmp_path]
    with pytest.raises(
        StoreError, match=r"b: the features takes about 4\.0 GB, and 3\.0 GB are free on its disk; free"
    ):
        require_space(tmp_path / "a" / "b", 4 * 10**9, "the features")


def test_only_a_full_disk_is_explained(tmp_path):
    with pytest.raises(RunFailed, match="free some"), writing(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionError), writing(tmp_path):
        raise PermissionError(errno.EACCES, "denied", "x")
