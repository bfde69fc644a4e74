"""Runs the writing of a store, killed at its n-th system call for every n, and what comes after each time.

    python -m tests.store.crash_driver FOLDER LAYOUT COMPRESSION STEP

A process of its own because it forks: one child writes and dies by SIGKILL, the next one looks at what is
there and finishes the job. Prints the number of kills survived, or the first thing that was not as promised.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from functools import partial
from pathlib import Path

from sm_store import Store, StoreMissing
from sm_store.verify import verify
from tests.store import building

CALLS = ("open", "write", "writev", "fsync", "rename", "mkdir", "unlink", "close", "rmdir")
SHARDS = 2


def work(path: Path, form: tuple[str, str | None]) -> None:
    """A whole extraction, which continues what it finds; `form` is layout and compression."""
    store = Store.open_or_create(path, building.identity(layout=form[0], compression=form[1]))
    store.add_target_set(building.target_spec("llm"), building.table(), building.TOKENIZER)
    for shard in range(SHARDS):
        with store.claim(shard) as to_do:
            if to_do:
                made = building.records(shard, count=2)
                store.commit(shard, made, building.rejects(shard), {"llm": building.token_ids(shard, made)})
    store.add_target_set(building.target_spec("late", kind="table"), building.table(), building.TOKENIZER)
    for shard in sorted(store.done_shards() - store.done_shards("late")):
        store.commit_targets("late", shard, building.token_ids(shard, building.records(shard, count=2)))


def look(path: Path) -> None:
    """Whatever is committed is whole and right, at any instant."""
    try:
        store = Store.open(path)
    except StoreMissing:
        return
    shards = sorted(store.done_shards())
    expected = [record for shard in shards for record in building.records(shard, count=2)]
    assert [record.id for record in store] == [record.id for record in expected]
    for found, given in zip(store, expected, strict=True):
        record = building.as_read(given, store.identity.compression)
        assert found.fields == record.fields and found.features.tobytes() == record.features.tobytes()
    assert [entry.id for entry in store.rejects()] == [f"bad-{shard}" for shard in shards]
    if "llm" in store.target_names:
        ids = [ids for shard in shards for ids in building.token_ids(shard, building.records(shard, count=2))]
        batch = store.read(range(len(store)), "llm")
        assert [entry.tolist() for entry in batch.token_ids] == [entry.tolist() for entry in ids]
    assert verify(path).ok


def die_at(number: int) -> None:
    """From now on count system calls of the writing kind, and be killed before the `number`-th."""
    left = number

    def counted(call):
        def wrapper(*args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                if call is os_calls["writev"]:  # half of it arrives
                    whole = b"".join(args[1])
                    os_calls["write"](args[0], whole[: len(whole) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapper

    os_calls = {name: getattr(os, name) for name in CALLS}
    for name, call in os_calls.items():
        setattr(os, name, counted(call))


def work_until_killed(path: Path, form: tuple[str, str | None], number: int) -> None:
    die_at(number)
    work(path, form)


def in_child(task) -> int:
    """Run `task` in a forked process; its wait status."""
    process = os.fork()
    if process == 0:
        try:
            task()
        except BaseException:
            traceback.print_exc()
            os._exit(3)
        os._exit(0)
    return os.waitpid(process, 0)[1]


def run(folder: Path, form: tuple[str, str | None], step: int) -> str:
    """Kill at every `step`-th call; returns what happened."""
    whole, path = folder / "whole", folder / "killed"
    if in_child(lambda: work(whole, form)):
        return "the undisturbed run failed"
    expected = building.tree(whole)
    number = 1
    while os.WIFSIGNALED(in_child(partial(work_until_killed, path, form, number))):
        if in_child(lambda: (look(path), work(path, form), look(path))):
            return f"wrong after a kill at call {number}"
        found = building.tree(path)
        if found != expected:
            names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
            return f"after a kill at call {number}, these differ: {names}"
        shutil.rmtree(path)
        number += step
    return f"survived {number // step} kills"


if __name__ == "__main__":
    compression = None if sys.argv[3] == "none" else sys.argv[3]
    sys.stdout.write(run(Path(sys.argv[1]), (sys.argv[2], compression), int(sys.argv[4])) + "\n")
