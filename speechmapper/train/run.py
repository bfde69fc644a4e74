"""One run while it is trained: its weights, optimizer, figures and checkpoints.

    trainee.train_step(ready, asked)     counts -> sums -> loss over the step's counts -> backward, per micro-batch
    trainee.after_step(done, ending)     log, evaluate, save where it is time to

A loop may drive several on the same batches (`sm-train sweep`): nothing of one depends on another, so each is to the
bit what it is alone. Everything random is drawn from a seed made of (run seed, micro-batch number).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from sm_store.errors import ConfigError
from speechmapper.config import Stage1Config, Stage2Config
from speechmapper.config_file import to_plain
from speechmapper.loader.epoch import Order
from speechmapper.loader.prefetch import DeviceBatch, StepBatches
from speechmapper.projector import Projector
from speechmapper.train.checkpoint import Checkpoint, load_newest, save_checkpoint
from speechmapper.train.interval import Interval, peak_gigabytes
from speechmapper.train.learner import AVERAGE, Average, Learner
from speechmapper.train.log import Report
from speechmapper.train.optimizer import Updater, build_optimizer
from speechmapper.train.run_folder import told_by_main
from speechmapper.train.stage import Task


@dataclass(frozen=True, slots=True)
class Setup:
    """All a run needs besides its task and weights.

    Attributes:
        out: the run's folder.
        identity: what the run is made for (JSON values); a checkpoint of another identity is refused.
        order: what each step reads. frame_rate: stored frames per second.
    """

    out: Path
    config: Stage1Config | Stage2Config
    identity: Mapping[str, Any]
    order: Order
    frame_rate: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: steps done. finished: it will not go on with --resume. ended: why, in words.
        skipped: steps with a non-finite gradient. figures: of the last log line and validation.
    """

    step: int
    finished: bool
    ended: str
    skipped: int
    figures: Mapping[str, float]


class Trainee:
    """One run of a task.

    Attributes:
        step: steps done.
        enough: why it ended before its last step, if it did.
    """

    def __init__(self, setup: Setup, task: Task, learner: Learner, accelerator: Accelerator) -> None:
        self._setup, self._task, self._accelerator = setup, task, accelerator
        self._config, self._run = setup.config, setup.config.run
        self._learner = learner
        if self._run.compile:
            compile_blocks(learner.projector)
        self._model, optimizer = accelerator.prepare(learner, build_optimizer(learner, self._config.optimizer))
        # A copy: made where `prepare` put the weights.
        self._average = Average(learner.projector, self._config.optimizer.ema)
        self._updater = Updater(self._config, learner, optimizer, accelerator)
        self._report = Report(setup.out, accelerator, to_plain(setup.config))
        self._interval = Interval()
        self.figures: dict[str, float] = {}
        self.step = 0
        self.enough: str | None = None

    @property
    def projector(self) -> Projector:
        """The run's result: the weights as they are, or their moving average where that is on."""
        return self._average.projector

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to train."""
        return self.enough is not None or self.step >= self._config.schedule.steps

    def outcome(self) -> Outcome:
        """How it went."""
        how = self.enough or ("done" if self.ended else "stopped by a signal, saved; go on with --resume")
        return Outcome(self.step, self.ended, how, self._updater.skipped, dict(self.figures))

    def begin(self) -> None:
        """Time starts to count."""
        self._interval = Interval()

    def release(self) -> None:
        """Let go of what averages gradients over processes.

        It shares the process group, and must not be the last to: that one waits for the group's threads, which may
        be waiting for the interpreter lock that only the group's own object gives away meanwhile.
        """
        self._model = self._learner
        self._accelerator.free_memory()

    def close(self) -> None:
        """End the trackers and the process group; of several, all are released first."""
        self._report.close()

    def train_step(self, ready: StepBatches, asked: bool) -> bool:
        """One optimizer step; True where any process says it was asked to end."""
        self._model.train()
        counts, asked = self._step_counts(ready.batches, asked)
        sums: dict[str, torch.Tensor] = {}
        for position, batch in enumerate(ready.batches):
            last = position == len(ready.batches) - 1
            with nullcontext() if last else self._accelerator.no_sync(self._model):
                for name, value in self._backward(batch, counts).items():
                    sums[name] = sums[name] + value if name in sums else value
        self._interval.add_step(ready)
        if self._updater.step(ready.step):
            self._interval.add_loss(sums, counts)
            self._average.update()
        self.step = ready.step + 1
        return asked

    def after_step(self, ending: bool) -> None:
        """Log, evaluate and save where it is time to; `ending`: the run is about to stop."""
        done = self.step
        last = done == self._config.schedule.steps
        if last or ending or _due(done, self._run.log_every):
            self._log(done)
        with self._interval.paused():
            if self._run.eval_utterances and (last or _due(done, self._run.eval_every)):
                self._evaluate(done)
            if last or ending or self.enough or _due(done, self._run.save_every):
                self._save(done)

    def resume(self) -> None:
        """Go back to the newest checkpoint, if there is one."""
        found = load_newest(self._setup.out, self._setup.identity)
        if found:
            own = {name: value for name, value in found.model.items() if not name.startswith(AVERAGE)}
            self._learner.load_state_dict(own)
            self._average.restore(found.model)
            self._updater.restore(dict(found.optimizer), dict(found.counters))
            self._setup.order.recall(found.counters["epoch_ends"])
            self.step, self.enough = found.step, found.counters["enough"]
        self._report.restart_at(self.step)

    def _step_counts(self, batches: list[DeviceBatch], asked: bool) -> tuple[dict[str, torch.Tensor], bool]:
        """Counts of the whole step, and whether any process was asked to end."""
        per_batch = [self._task.counts(batch) for batch in batches]
        names = list(per_batch[0])
        nothing = torch.zeros((), device=self._accelerator.device)
        values = [sum((counts[name] for counts in per_batch), nothing) for name in names]
        if self._accelerator.num_processes == 1:
            return dict(zip(names, values, strict=True)), asked
        reduced = self._accelerator.reduce(torch.stack([*values, nothing + float(asked)]), "sum")
        return dict(zip(names, reduced, strict=False)), bool(reduced[-1] > 0)

    def _backward(self, batch: DeviceBatch, counts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        torch.manual_seed(micro_seed(self._config.seed, batch.micro))
        with self._accelerator.autocast():
            sums = self._task.sums(self._model, batch)
        # Gradients are averaged over processes; the step's counts already hold all of them.
        self._accelerator.backward(self._task.combine(sums, counts) * self._accelerator.num_processes)
        return {name: value.detach() for name, value in sums.items()}

    def _log(self, done: int) -> None:
        interval, self._interval = self._interval, Interval()
        totals = interval.totals(self._accelerator)
        loss = float(self._task.combine(totals.sums, totals.counts)) if totals.sums else float("nan")
        self.figures = {"loss": loss}
        self._report.write(
            done,
            {
                **self.figures,
                **totals.means(),
                "lr": self._updater.lr,
                "epoch": self._setup.order.locate(done - 1)[0],
                "audio_seconds_per_second": totals.frames / self._setup.frame_rate / totals.seconds,
                "tokens_per_second": totals.tokens / totals.seconds,
                "seconds_per_step": totals.seconds / totals.steps,
                "data_wait": totals.wait / totals.seconds,
                "peak_memory_gb": peak_gigabytes(self._accelerator.device),
                "skipped": self._updater.skipped,
            },
        )

    def _evaluate(self, done: int) -> None:
        enough = ""
        if self._accelerator.is_main_process:
            projector = self.projector.eval()
            with torch.no_grad(), self._accelerator.autocast():
                found = self._task.evaluate(projector, done)
            figures = {f"dev_{name}": value for name, value in found.figures.items()}
            self._report.write(done, figures)
            self._report.histograms(done, {f"dev_{name}": values for name, values in found.histograms.items()})
            self.figures.update(figures)
            enough = found.enough or ""
        self.enough = told_by_main(self._accelerator, enough) or None

    def _save(self, done: int) -> None:
        if self._accelerator.is_main_process:
            counters = self._updater.counters()
            checkpoint = Checkpoint(
                step=done,
                identity=self._setup.identity,
                model={**self._learner.state_dict(), **self._average.tensors()},
                optimizer=self._updater.tensors(),
                counters={**counters, "epoch_ends": self._setup.order.ends(done), "enough": self.enough},
            )
            save_checkpoint(self._setup.out, checkpoint, self._run.keep)
        self._accelerator.wait_for_everyone()


def compile_blocks(projector: Projector) -> None:
    """torch.compile each block by itself, for any batch shape: the convolutions and layers are nearly all the work.

    Raises:
        ConfigError: no compiler for what torch generates.
    """
    if not any(map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))):
        raise ConfigError("run.compile needs a C++ compiler (g++ or clang++): install one, or set run.compile=false")
    for block in projector.blocks:
        block.compile(dynamic=True)


def micro_seed(seed: int, micro: int) -> int:
    """The seed of everything random in one micro-batch."""
    return int(np.random.SeedSequence((seed, micro)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _due(done: int, every: int) -> bool:
    return every > 0 and done % every == 0
