"""The training loop: the only one, for every stage, for one run or a sweep of them.

    for each step:
        read its micro-batches once, this process's share of them
        each run: counts, sums, loss, backward, optimizer step; log, evaluate, save where it is time to
        a signal: every run saves, and the loop ends

It knows no stage: `Task` says what a loss is, `Order` what each step reads, `Trainee` is a run. A run's state is its
weights, AdamW's moments and the step. Under `accelerate launch` each process takes its share of every step's
micro-batches; the result does not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext

from accelerate import Accelerator

from sm_pipeline.console import progress
from sm_pipeline.signals import note_signals
from sm_store.errors import ConfigError
from speechmapper.config import DataConfig, ScheduleConfig
from speechmapper.loader.epoch import Order
from speechmapper.loader.prefetch import BatchReader, Source
from speechmapper.train.run import Outcome, Trainee


class Loop:
    """Trains runs on the same batches.

    Args:
        name: for the progress bar.
        source: what to read from; order: what each step reads.
        data, schedule: the settings all the runs share.
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
        world = accelerator.num_processes
        if data.micro_batches % world:
            raise ConfigError(
                f"data.micro_batches {data.micro_batches} cannot be shared by {world} processes; set a multiple "
                f"of {world}"
            )

    def run(self, trainees: Sequence[Trainee], resume: bool) -> list[Outcome]:
        """Train every run to its last step, or until a signal asks to end.

        Raises:
            RunFailed: too many steps in a row had non-finite gradients.
        """
        with ExitStack() as owned:
            owned.callback(_close, trainees)
            if resume:
                for trainee in trainees:
                    trainee.resume()
            start = min((trainee.step for trainee in trainees if not trainee.ended), default=self._steps)
            signals = owned.enter_context(note_signals())
            main = self._accelerator.is_main_process
            shown = progress(self._steps - start, self._name, "steps") if main else nullcontext()
            bar = owned.enter_context(shown)
            reader = owned.enter_context(self._reader())
            for trainee in trainees:
                trainee.begin()
            for ready in reader.steps(start, self._steps):
                going = [trainee for trainee in trainees if not trainee.ended and trainee.step == ready.step]
                asked = signals.signal is not None
                told = [trainee.train_step(ready, asked) for trainee in going]  # each of them takes its step
                asked = asked or any(told)
                if bar is not None:
                    bar.advance(1, **trainees[0].figures)
                for trainee in going:
                    trainee.after_step(asked)
                if asked or all(trainee.ended for trainee in trainees):
                    break
        return [trainee.outcome() for trainee in trainees]

    def _reader(self) -> BatchReader:
        share = (self._accelerator.process_index, self._accelerator.num_processes)
        return BatchReader(self._source, self._order, self._accelerator.device, share, self._data.prefetch)


def _close(trainees: Sequence[Trainee]) -> None:
    for trainee in trainees:
        trainee.release()
    for trainee in trainees:
        trainee.close()
