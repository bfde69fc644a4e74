"""One training at a time writes to a run folder.

    with locked_run(out, accelerator):       a second training of `out`, with or without --resume, is refused:
        start_run(out, ...)                  --out RUN: another training is writing there; wait for it to end, or ...
        ...

The lock is the one that the writers of a shard take (`sm_store.durable.locked`): it vanishes with the process that
holds it, however that ends. Of several processes of a run, the main one holds it for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from accelerate import Accelerator

from sm_store.durable import locked
from sm_store.errors import ConfigError, StoreBusy
from sm_store.paths import LOCKS, STORE
from speechmapper.train.run_folder import broadcast_text

RUN_LOCK = "run"


@contextmanager
def locked_run(out: Path, accelerator: Accelerator) -> Iterator[None]:
    """Hold the lock of a run folder, which is made where it is missing; call in every process of the run.

    A folder that cannot become a run gets no lock: `start_run` refuses it.

    Raises:
        ConfigError: in every process, where another training holds the lock.
    """
    refusal = ""
    with ExitStack() as held:
        if accelerator.is_main_process and _made(out):
            try:
                held.enter_context(locked(out, RUN_LOCK))
            except StoreBusy:
                refusal = f"--out {out}: another training is writing there; wait for it to end, or name another folder"
        refusal = broadcast_text(accelerator, refusal)
        if refusal:
            raise ConfigError(refusal)
        yield
    if accelerator.is_main_process:
        with suppress(OSError):  # the next training holds its lock already
            (out / LOCKS).rmdir()


def _made(out: Path) -> bool:
    if (out / STORE).exists():
        return False
    with suppress(OSError):
        out.mkdir(parents=True, exist_ok=True)
    return out.is_dir()
