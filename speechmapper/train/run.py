"""One run while it is trained: its weights, optimizer, figures and checkpoints.

    run.resume()                                       from the newest checkpoint, if there is one
    for each step:
        run.train_step(step_batches, stop_requested)   per micro-batch: counts -> sums -> loss over the step's counts
                                                       -> backward; then one step of the optimizer
        run.after_step(stopping)                       log, evaluate, save where it is due
    run.outcome()                                      Outcome(step=2000, finished=True, ended="done", ...)

A loop may drive several runs on the same batches (`sm-train sweep`): no run depends on another, so each is bit for bit
what it is alone. Everything random is drawn from a seed made of (run seed, micro-batch number).
"""

from __future__ import annotations

import os
import shutil
import time
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
from speechmapper.saved_projector import save_projector
from speechmapper.train.checkpoint import Checkpoint, load_newest, save_checkpoint
from speechmapper.train.log import Interval, RunLog, last_figures, peak_gigabytes
from speechmapper.train.optimizer import AVERAGE, MovingAverage, ScheduledOptimizer, build_optimizer
from speechmapper.train.run_folder import broadcast_text, write_config
from speechmapper.train.stage import Evaluation, ProjectorWithObjective, Stage

# How a run ended that took all of its steps, or was stopped before.
DONE, STOPPED = "done", "stopped by a signal, saved; continue with --resume"


@dataclass(frozen=True, slots=True)
class Setup:
    """What a run needs besides its stage and weights.

    Attributes:
        out: the run's folder.
        identity: what the run trains on and how (JSON values); a checkpoint of another identity is refused.
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
        step: steps done. finished: nothing is left for --resume. ended: the reason, as text.
        skipped: steps with a non-finite gradient. figures: of the last log line and validation.
        seconds: of this run's own training steps, before a resume too: forward, backward and optimizer. Reading,
            validation, saving and the steps of other runs in the same loop are not in it; what a GPU has not finished
            when a step returns counts for the run that waits for it.
    """

    step: int
    finished: bool
    ended: str
    skipped: int
    figures: Mapping[str, float]
    seconds: float


class Run:
    """One run of a stage.

    Attributes:
        step: steps done.
        figures: of the last log line and validation.
        seconds: spent in training steps; see `Outcome`.
        stop_reason: why it ended before its last step, None where it did not.
        failure: why it cannot continue, None where it can.
    """

    def __init__(self, setup: Setup, stage: Stage, model: ProjectorWithObjective, accelerator: Accelerator) -> None:
        self._setup, self._stage, self._accelerator = setup, stage, accelerator
        self._config = setup.config
        self._model = model
        if self._config.run.compile:
            compile_blocks(model.projector)
        # In several processes `prepare` wraps the model, to average gradients over them.
        adapter_lr = self._config.lora.lr if isinstance(self._config, Stage2Config) else None
        optimizer = build_optimizer(model, self._config.optimizer, model.adapter, adapter_lr)
        self._wrapped_model, optimizer = accelerator.prepare(model, optimizer)
        # A copy of the weights, so made after `prepare` has moved them to the device.
        self._average = MovingAverage(model.projector, self._config.optimizer.ema)
        self._optimizer = ScheduledOptimizer(self._config, model, optimizer, accelerator)
        self._log = RunLog(setup.out, accelerator, to_plain(setup.config))
        self._interval = Interval()
        self.figures: dict[str, float] = {}
        self.seconds = 0.0
        self.step = 0
        self.stop_reason: str | None = None
        self.failure: str | None = None

    @property
    def projector(self) -> Projector:
        """The run's result: the weights as they are, or their moving average where that is on."""
        return self._average.projector

    @property
    def adapter_parameters(self) -> int:
        """Weights of an LLM's adapters that the run trains."""
        return sum(weight.numel() for weight in self._model.adapter.parameters()) if self._model.adapter else 0

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        return self.stop_reason is not None or self.step >= self._config.schedule.steps

    @property
    def ended(self) -> bool:
        """Whether it is finished or has failed."""
        return self.finished or self.failure is not None

    def outcome(self) -> Outcome:
        """How the run ended, or where it stands."""
        ended = self.failure or self.stop_reason or (DONE if self.finished else STOPPED)
        return Outcome(self.step, self.finished, ended, self._optimizer.skipped, dict(self.figures), self.seconds)

    def save_result(self) -> None:
        """Write the projector, with how far its training went, into the run's folder; before it what the stage trains
        besides."""
        outcome, settings = self.outcome(), to_plain(self._config)
        record: dict[str, Any] = {
            "steps": outcome.step,
            "steps_planned": self._config.schedule.steps,
            "finished": outcome.finished,
            **{name: settings[name] for name in ("seed", "objective", "tuning") if name in settings},
            **self._stage.save(self._setup.out),
        }
        save_projector(self._setup.out, self.projector, record)

    def start_timer(self) -> None:
        """Start timing the first interval of the log."""
        self._interval = Interval()

    def release(self) -> None:
        """Drop the wrapper that averages gradients over processes.

        It shares the process group, and must not be the last to: that one waits for the group's threads, which may
        be waiting for the interpreter lock that only the group's own object gives away meanwhile.
        """
        self._wrapped_model = self._model
        self._accelerator.free_memory()

    def close(self) -> None:
        """End the trackers; of several runs, all are released first."""
        self._log.close()

    def train_step(self, step_batches: StepBatches, stop_requested: bool) -> bool:
        """One optimizer step; returns whether a stop was requested in any process."""
        started = time.perf_counter()
        self._wrapped_model.train()
        counts, any_stop_requested = self._step_counts(step_batches.batches, stop_requested)
        sums: dict[str, torch.Tensor] = {}
        for position, batch in enumerate(step_batches.batches):
            last = position == len(step_batches.batches) - 1
            with nullcontext() if last else self._accelerator.no_sync(self._wrapped_model):
                for name, value in self._backward(batch, counts).items():
                    sums[name] = sums[name] + value if name in sums else value
        self._interval.add_step(step_batches, self._stage.take_flop())
        if self._optimizer.step(step_batches.step):
            self._interval.add_loss(sums, counts)
            self._average.update()
        self.step = step_batches.step + 1
        self.seconds += time.perf_counter() - started
        return any_stop_requested

    def after_step(self, stopping: bool) -> None:
        """Log, evaluate and save where it is due; `stopping`: training stops after this step."""
        options, last = self._config.run, self.step == self._config.schedule.steps
        if last or stopping or self._is_due(options.log_every):
            self._write_log()
        with self._interval.paused():
            if options.eval_utterances and (last or self._is_due(options.eval_every)):
                self._evaluate()
            if last or stopping or self.stop_reason or self._is_due(options.save_every):
                self._save()

    def resume(self) -> None:
        """Restore the newest checkpoint, if there is one."""
        found = load_newest(self._setup.out, self._setup.identity)
        if found:
            own = {name: value for name, value in found.model.items() if not name.startswith(AVERAGE)}
            self._model.load_state_dict(own)
            self._average.restore(found.model)
            self._optimizer.restore(found.optimizer, found.counters)
            self._setup.order.recall(found.counters["epoch_ends"])
            self.step, self.stop_reason = found.step, found.counters["enough"]
            self.seconds = found.counters.get("seconds", 0.0)  # absent in checkpoints of earlier builds
            if self._accelerator.is_main_process:
                write_config(self._setup.out, self._config)
        self._log.truncate_after(self.step)
        self.figures = last_figures(self._setup.out, self.step)

    def _step_counts(self, batches: list[DeviceBatch], stop_requested: bool) -> tuple[dict[str, torch.Tensor], bool]:
        """Counts of the whole step, and whether a stop was requested in any process."""
        per_batch = [self._stage.counts(batch) for batch in batches]
        names = list(per_batch[0])
        nothing = torch.zeros((), device=self._accelerator.device)
        values = [sum((counts[name] for counts in per_batch), nothing) for name in names]
        if self._accelerator.num_processes == 1:
            return dict(zip(names, values, strict=True)), stop_requested
        reduced = self._accelerator.reduce(torch.stack([*values, nothing + float(stop_requested)]), "sum")
        return dict(zip(names, reduced, strict=False)), bool(reduced[-1] > 0)

    def _backward(self, batch: DeviceBatch, counts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Add one micro-batch's gradients; returns its sums."""
        torch.manual_seed(micro_seed(self._config.seed, batch.micro))
        with self._accelerator.autocast():
            sums = self._stage.sums(self._wrapped_model, batch)
        # Gradients are averaged over processes; the step's counts already hold all of them.
        self._accelerator.backward(self._stage.combine(sums, counts) * self._accelerator.num_processes)
        return {name: value.detach() for name, value in sums.items()}

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _write_log(self) -> None:
        interval, self._interval = self._interval, Interval()
        totals = interval.totals(self._accelerator)
        loss = float(self._stage.combine(totals.sums, totals.counts)) if totals.sums else float("nan")
        self.figures = {"loss": loss}
        self._log.write(
            self.step,
            {
                **self.figures,
                **totals.means(),
                "lr": self._optimizer.lr,
                "epoch": self._setup.order.locate(self.step - 1)[0],
                "audio_seconds_per_second": totals.frames / self._setup.frame_rate / totals.seconds,
                "tokens_per_second": totals.tokens / totals.seconds,
                **totals.speed_of_llm(self._accelerator),
                "seconds_per_step": totals.seconds / totals.steps,
                "data_wait": totals.wait / totals.seconds,
                "peak_memory_gb": peak_gigabytes(self._accelerator.device),
                "skipped": self._optimizer.skipped,
            },
        )

    def _evaluate(self) -> None:
        is_main, stop_reason, found = self._accelerator.is_main_process, "", Evaluation()
        if is_main or self._stage.shares_evaluation:
            projector = self.projector.eval()
            with torch.no_grad(), self._accelerator.autocast():
                found = self._stage.evaluate(projector, self.step)
        if is_main:
            figures = {f"dev_{name}": value for name, value in found.figures.items()}
            self._log.write(self.step, figures)
            self._log.histograms(self.step, {f"dev_{name}": values for name, values in found.histograms.items()})
            self.figures.update(figures)
            stop_reason = found.stop_reason or ""
        self.stop_reason = broadcast_text(self._accelerator, stop_reason) or None

    def _save(self) -> None:
        if self._accelerator.is_main_process:
            epoch_ends = self._setup.order.ends(self.step)
            checkpoint = Checkpoint(
                step=self.step,
                identity=self._setup.identity,
                model={**self._model.state_dict(), **self._average.tensors()},
                optimizer=self._optimizer.tensors(),
                # `enough` is the file's name for the stop reason
                counters={
                    **self._optimizer.counters(),
                    "epoch_ends": epoch_ends,
                    "enough": self.stop_reason,
                    "seconds": round(self.seconds, 3),
                },
            )
            save_checkpoint(self._setup.out, checkpoint, self._config.run.keep)
        self._accelerator.wait_for_everyone()


def compile_blocks(projector: Projector) -> None:
    """torch.compile each block by itself, for any batch shape: the convolutions and layers are nearly all the work.

    Raises:
        ConfigError: no compiler for the code that torch generates.
    """
    require_compiler()
    for block in projector.blocks:
        block.compile(dynamic=True)


def require_compiler() -> None:
    """Check that there is a compiler for the code that torch.compile generates. Raises ConfigError."""
    if not any(map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))):
        raise ConfigError("run.compile needs a C++ compiler (g++ or clang++): install one, or set run.compile=false")


def micro_seed(seed: int, micro: int) -> int:
    """The seed of everything random in one micro-batch."""
    return int(np.random.SeedSequence((seed, micro)).generate_state(1, np.uint64)[0] >> np.uint64(1))
