"""The training loop: one for all stages, for a single run or a sweep of them.

    for each step:
        read this process's share of its micro-batches, once
        each run: counts, sums, loss, backward, optimizer step; then log, evaluate, save where it is due
        after a stop signal (Ctrl-C too): every run saves, and the loop ends

It knows no stage: `Stage` says what a loss is, `Order` what each step reads, `Run` is a run. A run's state is its
weights, AdamW's moments and the step. Under `accelerate launch` each process takes its share of every step's
micro-batches; the result does not depend on how many processes there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext

import torch
from accelerate import Accelerator

from sm_pipeline.console import progress
from sm_pipeline.signals import note_signals
from sm_store.errors import ConfigError, RunFailed
from speechmapper.config import DataConfig, ScheduleConfig, Stage1Config, Stage2Config
from speechmapper.loader.data import TrainingData
from speechmapper.loader.epoch import Order
from speechmapper.loader.prefetch import Source, StepBatches, StepReader
from speechmapper.train.run import Outcome, Run
from speechmapper.train.run_folder import print_message

SHOWN = ("loss", "dev_wer")  # beside the progress; metrics.jsonl has all figures
AT_CTRL_C = "stopping: saving after this step, to continue with --resume; Ctrl-C again stops at once, without saving"


def train_together(
    name: str,
    data: TrainingData,
    config: Stage1Config | Stage2Config,
    runs: Sequence[Run],
    accelerator: Accelerator,
    resume: bool,
    in_sweep: bool,
) -> tuple[list[Outcome], bool]:
    """Train runs on the same batches and save the projectors of those that did not fail.

    Returns how each run ended, and whether a signal asked to stop.

    Args:
        name: for messages.
        config: of one of them; all have the same data settings and steps.
        resume, in_sweep: see `Loop.run`.
    """
    for note in data.notes:
        print_message(accelerator, f"  {note}")
    loop = Loop(name, data.source, data.order, config.data, config.schedule, accelerator)
    outcomes = loop.run(runs, resume, in_sweep)
    if accelerator.is_main_process:
        for run in runs:
            if run.failure is None:
                run.save_result()
    return outcomes, loop.stop_requested


class Loop:
    """Trains runs on the same batches.

    Args:
        name: for the progress bar.
        source: what to read from; order: what each step reads.
        data, schedule: the settings all the runs share.

    Attributes:
        stop_requested: whether a signal, in any process, asked to stop while `run` was at work, be it at its last step.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        order: Order,
        data: DataConfig,
        schedule: ScheduleConfig,
        accelerator: Accelerator,
    ) -> None:
        self._name, self._source, self._order, self._accelerator = name, source, order, accelerator
        self._data, self._steps = data, schedule.steps
        self.stop_requested = False
        require_shares(data, accelerator)

    def run(self, runs: Sequence[Run], resume: bool, in_sweep: bool = False) -> list[Outcome]:
        """Train every run to its last step, or until a stop signal.

        Args:
            in_sweep: other runs go on when one fails, and other loops follow: the group of processes is kept.

        Raises:
            RunFailed: too many steps in a row had non-finite gradients; in a sweep that is the run's outcome.
        """
        with ExitStack() as owned:
            if not in_sweep:
                owned.callback(self._accelerator.state.destroy_process_group)
            owned.callback(_close, runs)
            if resume:
                for run in runs:
                    run.resume()
            start = min((run.step for run in runs if not run.finished), default=self._steps)
            is_main = self._accelerator.is_main_process
            stop_request = owned.enter_context(note_signals(AT_CTRL_C if is_main else ""))
            shown = progress(self._steps, self._name, "steps", done=start) if is_main else nullcontext()
            bar = owned.enter_context(shown)
            reader = owned.enter_context(self._reader())
            for run in runs:
                run.start_timer()
            for step_batches in reader.steps(start, self._steps):
                # After --resume some runs may be ahead: they wait until the others have caught up. One that has failed
                # stays where it is.
                active = [run for run in runs if not run.ended and run.step == step_batches.step]
                stop_requested = stop_request.signal is not None
                answers = [_train_step(run, step_batches, stop_requested, in_sweep) for run in active]
                stopping = stop_requested or any(answers)
                if bar is not None:
                    bar.advance(1, **{name: runs[0].figures[name] for name in SHOWN if name in runs[0].figures})
                for run in active:
                    if run.failure is None:
                        run.after_step(stopping)
                if stopping or all(run.ended for run in runs):
                    break
            self.stop_requested = self._in_any_process(stop_request.signal is not None)
        return [run.outcome() for run in runs]

    def _in_any_process(self, noted: bool) -> bool:
        if self._accelerator.num_processes == 1:
            return noted
        return bool(self._accelerator.reduce(torch.tensor(float(noted), device=self._accelerator.device), "sum") > 0)

    def _reader(self) -> StepReader:
        share = (self._accelerator.process_index, self._accelerator.num_processes)
        return StepReader(self._source, self._order, self._accelerator.device, share, self._data.prefetch)


def _train_step(run: Run, step_batches: StepBatches, stop_requested: bool, keep_failure: bool) -> bool:
    try:
        return run.train_step(step_batches, stop_requested)
    except RunFailed as error:
        if not keep_failure:
            raise
        run.failure = str(error)
        return False


def require_shares(data: DataConfig, accelerator: Accelerator) -> None:
    """Check that the processes can share the micro-batches of a step. Raises ConfigError."""
    world = accelerator.num_processes
    if data.micro_batches % world:
        raise ConfigError(
            f"data.micro_batches {data.micro_batches} cannot be shared by {world} processes; set a multiple of {world}"
        )


def _close(runs: Sequence[Run]) -> None:
    for run in runs:
        run.release()
    for run in runs:
        run.close()
