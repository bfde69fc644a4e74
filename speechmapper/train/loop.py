"""The training loop: the only one, for every stage.

    for each step:
        counts of all its micro-batches, added over processes
        for each micro-batch of this process:   sums -> loss over the step's counts -> backward
        clip, skip if not finite, optimizer step
        now and then: log, evaluate, save; a signal: save and end

It knows no stage: `Task` says what a loss is, `Order` what each step reads. Everything random is drawn from a
seed made of (run seed, micro-batch number), so a run's state is its weights, AdamW's moments and the step.
Under `accelerate launch` each process takes its share of every step's micro-batches; the result does not
depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from sm_pipeline.console import progress
from sm_store import Store
from sm_store.errors import ConfigError
from speechmapper.config import Stage1Config, Stage2Config, to_plain
from speechmapper.loader.batches import BatchReader, DeviceBatch, StepBatches
from speechmapper.loader.epoch import Order
from speechmapper.projector import Projector
from speechmapper.train.checkpoint import Checkpoint, load_newest, save_checkpoint
from speechmapper.train.interrupt import StopRequest, stop_on_signals
from speechmapper.train.interval import Interval
from speechmapper.train.report import Report
from speechmapper.train.task import Task
from speechmapper.train.update import Updater, build_optimizer


@dataclass(frozen=True, slots=True)
class Setup:
    """All a run needs besides its task.

    Attributes:
        name: of the stage, for the progress bar.
        out: the run's folder.
        identity: what the run is made for (JSON values); a checkpoint of another identity is refused.
        frame_rate: stored frames per second.
    """

    name: str
    out: Path
    config: Stage1Config | Stage2Config
    store: Store
    target: str
    order: Order
    identity: Mapping[str, Any]
    frame_rate: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: steps done, whether that is all of them, and the last validation figures."""

    step: int
    finished: bool
    skipped: int
    figures: Mapping[str, float]


class Loop:
    """One run of a task; `run` does it."""

    def __init__(self, setup: Setup, task: Task, model: Projector, accelerator: Accelerator) -> None:
        self._setup, self._task, self._accelerator = setup, task, accelerator
        self._config, self._run = setup.config, setup.config.run
        world = accelerator.num_processes
        if self._config.data.micro_batches % world:
            raise ConfigError(
                f"data.micro_batches {self._config.data.micro_batches} cannot be shared by {world} "
                f"processes; set a multiple of {world}"
            )
        self._projector = model
        self._model, optimizer = accelerator.prepare(model, build_optimizer(model, self._config.optimizer))
        self._updater = Updater(self._config, self._model, optimizer, accelerator)
        self._report = Report(setup.out, accelerator, to_plain(setup.config))
        self._interval = Interval()
        self._figures: dict[str, float] = {}

    def run(self, resume: bool) -> Outcome:
        """Train to the last step, or until a signal asks to end.

        Raises:
            RunFailed: too many steps in a row had non-finite gradients.
        """
        start = self._resume() if resume else 0
        stop, total = start, self._config.schedule.steps
        with ExitStack() as owned:
            owned.callback(self._report.close)
            signals = owned.enter_context(stop_on_signals())
            main = self._accelerator.is_main_process
            bar = owned.enter_context(progress(total - start, self._setup.name, "steps") if main else nullcontext())
            reader = owned.enter_context(self._reader())
            for ready in reader.steps(start, total):
                asked = self._train_step(ready, signals)
                stop = ready.step + 1
                if bar is not None:
                    bar.advance(1, **self._figures)
                self._after_step(stop, asked)
                if asked:
                    break
        return Outcome(stop, stop >= total, self._updater.skipped, dict(self._figures))

    def _reader(self) -> BatchReader:
        share = (self._accelerator.process_index, self._accelerator.num_processes)
        setup, device = self._setup, self._accelerator.device
        return BatchReader(setup.store, setup.target, setup.order, device, share, self._config.data.prefetch)

    def _train_step(self, ready: StepBatches, signals: StopRequest) -> bool:
        """One optimizer step; True where a process has been asked to end."""
        self._model.train()
        counts, asked = self._step_counts(ready.batches, signals)
        sums: dict[str, torch.Tensor] = {}
        for position, batch in enumerate(ready.batches):
            last = position == len(ready.batches) - 1
            with nullcontext() if last else self._accelerator.no_sync(self._model):
                for name, value in self._backward(batch, counts).items():
                    sums[name] = sums[name] + value if name in sums else value
        self._interval.add_step(ready)
        if self._updater.step(ready.step):
            self._interval.add_loss(sums, counts)
        return asked

    def _step_counts(self, batches: list[DeviceBatch], signals: StopRequest) -> tuple[dict[str, torch.Tensor], bool]:
        """Counts of the whole step, and whether any process was asked to end."""
        per_batch = [self._task.counts(batch) for batch in batches]
        names = list(per_batch[0])
        values = [
            sum((counts[name] for counts in per_batch), torch.zeros((), device=self._accelerator.device))
            for name in names
        ]
        if self._accelerator.num_processes == 1:
            return dict(zip(names, values, strict=True)), signals.asked is not None
        flag = torch.tensor(float(signals.asked is not None), device=self._accelerator.device)
        reduced = self._accelerator.reduce(torch.stack([*values, flag]), "sum")
        return dict(zip(names, reduced, strict=False)), bool(reduced[-1] > 0)

    def _backward(self, batch: DeviceBatch, counts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        torch.manual_seed(micro_seed(self._config.seed, batch.micro))
        with self._accelerator.autocast():
            sums = self._task.sums(self._model, batch)
        # Gradients are averaged over processes; the step's counts already hold all of them.
        self._accelerator.backward(self._task.combine(sums, counts) * self._accelerator.num_processes)
        return {name: value.detach() for name, value in sums.items()}

    def _after_step(self, done: int, ending: bool) -> None:
        """Log, evaluate and save where it is time to."""
        last = done == self._config.schedule.steps
        if last or ending or _due(done, self._run.log_every):
            self._log(done)
        with self._interval.paused():
            if self._run.eval_utterances and (last or _due(done, self._run.eval_every)):
                self._evaluate(done)
            if last or ending or _due(done, self._run.save_every):
                self._save(done)

    def _log(self, done: int) -> None:
        interval, self._interval = self._interval, Interval()
        totals = interval.totals(self._accelerator)
        loss = float(self._task.combine(totals.sums, totals.counts)) if totals.sums else float("nan")
        self._figures = {"loss": loss}
        self._report.write(
            done,
            {
                **self._figures,
                **totals.means(),
                "lr": self._updater.lr,
                "epoch": self._setup.order.locate(done - 1)[0],
                "audio_seconds_per_second": totals.frames / self._setup.frame_rate / totals.seconds,
                "seconds_per_step": totals.seconds / totals.steps,
                "data_wait": totals.wait / totals.seconds,
                "skipped": self._updater.skipped,
            },
        )

    def _evaluate(self, done: int) -> None:
        if self._accelerator.is_main_process:
            self._projector.eval()
            with torch.no_grad(), self._accelerator.autocast():
                figures = {f"dev_{name}": value for name, value in self._task.evaluate(self._projector, done).items()}
            self._report.write(done, figures)
            self._figures.update(figures)
        self._accelerator.wait_for_everyone()

    def _save(self, done: int) -> None:
        if self._accelerator.is_main_process:
            checkpoint = Checkpoint(
                step=done,
                identity=self._setup.identity,
                model=self._projector.state_dict(),
                optimizer=self._updater.tensors(),
                counters=self._updater.counters(),
            )
            save_checkpoint(self._setup.out, checkpoint, self._run.keep)
        self._accelerator.wait_for_everyone()

    def _resume(self) -> int:
        """Go back to the newest checkpoint; returns its step, 0 where there is none."""
        found = load_newest(self._setup.out, self._setup.identity)
        if found:
            self._projector.load_state_dict(dict(found.model))
            self._updater.restore(dict(found.optimizer), dict(found.counters))
        step = found.step if found else 0
        self._report.restart_at(step)
        return step


def micro_seed(seed: int, micro: int) -> int:
    """The seed of everything random in one micro-batch."""
    return int(np.random.SeedSequence((seed, micro)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _due(done: int, every: int) -> bool:
    return every > 0 and done % every == 0
