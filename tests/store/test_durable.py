from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading

import numpy as np
import pytest

from sm_store import StoreBusy, StoreCorrupt, StoreError, StoreFormatError, durable
from sm_store.durable import Written, checksum, locked, staged, write_file
from sm_store.errors import RunFailed
from tests.reference.store_reader import crc32c


@pytest.mark.parametrize("data", [b"", b"a", b"123456789", bytes(range(256)) * 9])
def test_checksum_is_crc32c(data):
    assert checksum(data) == crc32c(data)
    assert checksum(np.frombuffer(data, np.uint8)) == crc32c(data)
    assert checksum(data[3:], checksum(data[:3])) == crc32c(data)


def test_checksum_of_the_standard_example():
    assert checksum(b"123456789") == 0xE3069283


def test_checksum_of_arrays_is_that_of_their_bytes():
    array = np.arange(24, dtype=np.float16).reshape(4, 6)
    assert checksum(array) == crc32c(array.tobytes())


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("data", [b"", b"123456789" * 1000])
def test_a_file_as_it_was_written_is_read(tmp_path, data, mapped):
    found = write_file(tmp_path / "file", data).require(tmp_path / "file", mapped)
    assert found.dtype == np.uint8 and found.tobytes() == data


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda path: path.write_bytes(b"123456780"), r"bytes differ from what was written \(crc32c\)"),
        (lambda path: path.write_bytes(b"1234567890"), "10 bytes where 9 were written"),
        (lambda path: path.write_bytes(b""), "0 bytes where 9 were written"),
        (lambda path: path.unlink(), "missing"),
        (lambda path: shutil.rmtree(path.parent), "missing"),
    ],
)
def test_any_other_file_is_refused_with_the_remedy(tmp_path, change, problem, mapped):
    path = tmp_path / "folder" / "file"
    written = write_file(path, b"123456789")
    change(path)
    with pytest.raises(StoreCorrupt, match=rf"file: {problem}; run `sm-pipeline verify`"):
        written.require(path, mapped)


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path):
    (tmp_path / "file").mkdir()
    size = (tmp_path / "file").stat().st_size
    with pytest.raises(StoreFormatError, match="cannot be read"):
        Written(size, 0).require(tmp_path / "file")


def test_sizes_are_compared_where_a_checksum_is_not_known():
    written = Written(9, 4)
    assert written.difference(9) is None and written.difference(9, 4) is None
    assert written.difference(9, 5) == "bytes differ from what was written (crc32c)"
    assert written.difference(8) == written.difference(8, 4) == "8 bytes where 9 were written"
    assert written.difference(None) == "missing"


def test_write_file_replaces(tmp_path):
    path = tmp_path / "deep" / "er" / "file"
    assert write_file(path, b"one") == Written(3, crc32c(b"one"))
    assert write_file(path, b"") == Written(0, 0)
    assert path.read_bytes() == b""
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_write_file_removes_what_a_crash_left(tmp_path):
    (tmp_path / ".file.tmp-77-abcd").write_bytes(b"half")
    (tmp_path / ".other.tmp-77-abcd").write_bytes(b"half")
    write_file(tmp_path / "file", b"x")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".other.tmp-77-abcd", "file"]


@pytest.mark.parametrize("name", ["*", "a[b]", "**.html", "?b"])
def test_only_the_leftovers_of_that_very_name_are_removed(tmp_path, name):
    (tmp_path / f".{name}.tmp-1-dead").write_bytes(b"half")
    (tmp_path / ".ab.tmp-1-alive").write_bytes(b"another writer's")
    write_file(tmp_path / name, b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, ".ab.tmp-1-alive"])


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    write_file(tmp_path / "file", b"old")

    def fail(fd):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_file(tmp_path / "file", b"new")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"old")]


def test_short_writes_are_continued(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    monkeypatch.setattr(os, "writev", lambda fd, pieces: real(fd, pieces[0][:5]))
    data = bytes(range(100))
    assert write_file(tmp_path / "file", data) == Written(100, crc32c(data))
    assert (tmp_path / "file").read_bytes() == data


def test_an_error_of_the_writing_thread_is_raised_and_leaves_nothing(tmp_path, monkeypatch):
    def fail(fd, pieces):
        raise OSError(5, "Input/output error")

    rows = np.zeros(1_000_000, np.uint8)
    with (
        pytest.raises(OSError, match="Input/output error"),
        staged(tmp_path / "s") as stage,
        stage.create("big") as out,
    ):
        out.write(rows)
        monkeypatch.setattr(os, "writev", fail)
        out.write(rows)
    assert list(tmp_path.iterdir()) == []


def test_large_and_small_buffers_arrive_in_order(tmp_path):
    rng = np.random.default_rng(0)
    buffers = [rng.integers(0, 256, size, np.uint8) for size in (3, 200_000, 1, 70_000, 0, 40_000, 40_000, 5)] * 20
    with staged(tmp_path / "s", folder=False) as stage, stage.create("") as out:
        sums = [out.write(buffer) for buffer in buffers]
    whole = np.concatenate(buffers).tobytes()
    assert (tmp_path / "s").read_bytes() == whole
    assert stage.files[""] == Written(len(whole), crc32c(whole))
    assert sums == [crc32c(buffer.tobytes()) for buffer in buffers]


def test_many_small_buffers(tmp_path):
    """More than one call of the system takes."""
    with staged(tmp_path / "s", folder=False) as stage, stage.create("") as out:
        for number in range(3000):
            out.write(bytes([number % 256]))
    assert (tmp_path / "s").read_bytes() == bytes(number % 256 for number in range(3000))


def test_staged_folder_appears_at_once(tmp_path):
    final = tmp_path / "shards" / "00001"
    with staged(final) as stage:
        stage.add("a/b/c", b"123")
        with stage.create("d") as out:
            assert out.write(np.arange(4, dtype=np.int16)) == crc32c(np.arange(4, dtype=np.int16).tobytes())
            out.write(b"tail")
        assert not final.exists()
    assert (final / "a/b/c").read_bytes() == b"123"
    assert stage.files == {
        "a/b/c": Written(3, crc32c(b"123")),
        "d": Written(12, crc32c((final / "d").read_bytes())),
    }


def test_staged_replaces_and_cleans(tmp_path):
    final = tmp_path / "x"
    (tmp_path / ".x.tmp-1-ff").mkdir()
    (tmp_path / ".x.tmp-1-ff" / "junk").write_bytes(b"junk")
    final.mkdir()
    (final / "old").write_bytes(b"old")
    with staged(final) as stage:
        stage.add("new", b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]
    assert [entry.name for entry in final.iterdir()] == ["new"]


def test_staged_file(tmp_path):
    with staged(tmp_path / "t.tar", folder=False) as stage:
        stage.add("", b"tar")
    assert (tmp_path / "t.tar").read_bytes() == b"tar" and stage.files[""].size == 3


@pytest.mark.parametrize("folder", [True, False])
def test_a_failed_stage_leaves_what_was_there(tmp_path, folder):
    final = tmp_path / "x"
    write_file(final, b"old")
    with pytest.raises(RuntimeError), staged(final, folder=folder) as stage:
        stage.add("a" if folder else "", b"half")
        raise RuntimeError
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("x", b"old")]


def test_everything_is_synced_before_it_is_renamed(tmp_path, monkeypatch):
    """Mutation check: without an fsync of file, folder or parent, this fails."""
    events = []
    real_sync, real_rename = os.fsync, os.rename

    def sync(fd):
        events.append(("sync", os.readlink(f"/proc/self/fd/{fd}")))
        real_sync(fd)

    def rename(source, target):
        events.append(("rename", str(target)))
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", rename)
    with staged(tmp_path / "s") as stage:
        stage.add("sub/file", b"1")
    names = [(kind, os.path.relpath(path, tmp_path).split("-")[0]) for kind, path in events]
    where = stage.path.name.split("-")[0]
    synced = [os.path.relpath(path, stage.path) for kind, path in events[:3]]
    assert synced[0] == "sub/file" and sorted(synced[1:]) == [".", "sub"]
    assert names[3:] == [("rename", "s"), ("sync", ".")] and where == ".s.tmp"


def test_remove_file_folder_and_nothing(tmp_path):
    write_file(tmp_path / "f", b"1")
    write_file(tmp_path / "d/e/f", b"1")
    for name in ("f", "d", "nothing", "no/where"):
        durable.remove(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_locks_are_exclusive_and_go_with_their_holder(tmp_path):
    with locked(tmp_path, "a"):
        with pytest.raises(StoreBusy, match="a is being written"), locked(tmp_path, "a"):
            pass
        with locked(tmp_path, "b"):
            pass
    with locked(tmp_path, "a"):
        pass
    assert list((tmp_path / ".locks").iterdir()) == []


def test_a_waiting_lock_gets_its_turn(tmp_path):
    order = []

    def second():
        with locked(tmp_path, "a", wait=True):
            order.append("second")

    with locked(tmp_path, "a"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.1)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_many_waiting_locks_never_overlap(tmp_path):
    inside, most = [0], [0]

    def work():
        for _ in range(10):
            with locked(tmp_path, "a", wait=True):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == [1] and inside == [0]


def test_a_lock_of_a_dead_process_is_free(tmp_path):
    process = os.fork()
    if process == 0:
        with locked(tmp_path, "a"):
            os._exit(0)
    os.waitpid(process, 0)
    assert (tmp_path / ".locks" / "a").exists()
    with locked(tmp_path, "a"):
        pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_names_the_file_and_the_remedy(tmp_path, monkeypatch, number):
    def full(fd, pieces):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "writev", full)
    said = rf"{tmp_path}/f: {os.strerror(number).lower()}; free some and run the same command again"
    with pytest.raises(RunFailed, match=said):
        write_file(tmp_path / "f", b"data")
    with pytest.raises(RunFailed, match=said), staged(tmp_path / "f") as stage:
        stage.add("inner", b"data")
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_named_with_the_remedy(tmp_path, monkeypatch):
    def no_locks(fd, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(StoreError, match=r"locks/index: cannot be locked \(No locks available\).*local disk"):
        locked(tmp_path, "index").__enter__()


def test_a_file_or_a_link_to_nothing_in_place_of_a_folder(tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "file").write_text("")
    for name, what in (("link", "a link to nothing"), ("file", "a file")):
        with pytest.raises(StoreFormatError, match=f"{tmp_path / name}: {what} is there; remove it"):
            durable.make_folder(tmp_path / name / "below")
