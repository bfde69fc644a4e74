"""Validation of stage 2 on the dev split: its losses there, and what the LLM answers.

    probe              asked                                               figures
    (none)             asr by the wording that evaluation uses             dev_wer, dev_cer
    task_sqa           another task that is trained                        dev_task_sqa_f1, dev_task_sqa_exact_match
    unseen_wording     the trained tasks, in wordings kept out of it       dev_unseen_wording_wer, ...
    unseen_task_st     a task of `tuning.unseen_tasks`, never trained      dev_unseen_task_st_de_bleu, ...

Beside them `dev_loss`, `dev_ce`, `dev_objective` and `dev_relative_mse` (of what the LLM is given). A projector that
fits its task alone gets better in the first line and worse in the last ones.

    batch 0 -> process 0 -> BatchResult(0, ...) -+
    batch 1 -> process 1 -> BatchResult(1, ...) -+-> in every process: all results, in order -> figures

Batches are dealt to the processes, and results are added up in the order of the batches: the figures are the same with
any number of processes. Where the LLM is divided among them (`llm.shard`), all have to run it equally often: processes
that have no batch left take the last one again, and ask as often as the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from accelerate import Accelerator
from accelerate.utils import gather_object

from sm_store import Fields
from speechmapper.loader.prefetch import DeviceBatch
from speechmapper.measure.vectors import Closeness
from speechmapper.projector import Projected, Projector
from speechmapper.prompting import Instruction
from speechmapper.readout.build import Readout
from speechmapper.tasks import ASR, Item, Mixture, Task
from speechmapper.tasks.base import ANY_LANGUAGE
from speechmapper.train.stage import Evaluation
from speechmapper.train.validation import DevSet, write_examples

READ_BATCH = 16  # utterances the LLM reads together
UNSEEN_WORDING, UNSEEN_TASK, TRAINED_TASK = "unseen_wording", "unseen_task", "task"


@dataclass(frozen=True, slots=True)
class Question:
    """What the LLM is asked about utterance `row` of the dev set, and the item that has the answer."""

    row: int
    item: Item
    instruction: Instruction


@dataclass(frozen=True, slots=True)
class Probe:
    """Questions of one task.

    Attributes:
        name: what figures begin with; empty for those of the trained transcripts.
        questions: in the order of the dev set's rows.
    """

    name: str
    task: Task
    questions: Sequence[Question]

    def figures(self, outputs: Sequence[str]) -> dict[str, float]:
        """The task's scores of the outputs, one per question; by language where the task asks for one."""
        lines: dict[str, list[dict[str, str]]] = {}
        for question, output in zip(self.questions, outputs, strict=True):
            language = question.item.language
            named = {} if language == ANY_LANGUAGE else {"language": language}
            line = {"reference": question.item.reference, "output": output, **named}
            lines.setdefault(language, []).append(line)
        return {
            "_".join(part for part in (self.name, "" if language == ANY_LANGUAGE else language, score) if part): value
            for language, answered in sorted(lines.items())
            for score, value in self.task.score(answered).items()
            if isinstance(value, float)
        }


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What one batch of the dev set gave.

    Attributes:
        number: of the batch. sums, counts: of the losses. outputs: of each probe's questions, in order.
    """

    number: int
    sums: Mapping[str, float]
    counts: Mapping[str, float]
    closeness: Closeness
    outputs: Sequence[Sequence[str]]


class Losses(Protocol):
    """The losses of a stage on the dev split."""

    def dev_sums(self, projected: Projected, batch: DeviceBatch) -> tuple[dict[str, float], dict[str, float]]:
        """Sums and counts of a batch."""

    def dev_losses(self, sums: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
        """The losses, by name in the log, from the sums and counts of all batches."""


@dataclass(frozen=True, slots=True)
class LlmValidation:
    """Asks the LLM every probe's questions about the dev set.

    Attributes:
        table_scale: mean square of the embedding table.
        accelerator: of the processes that share the work; None: this one does all of it.
        in_step: they run the LLM equally often, in the same order.
    """

    dev: DevSet
    readout: Readout
    probes: Sequence[Probe]
    table_scale: float
    accelerator: Accelerator | None = None
    in_step: bool = False

    def run(self, model: Projector, step: int, losses: Losses | None = None) -> Evaluation:
        """All the figures, in every process; appends examples to the run's file. Call it in every process."""
        own = [self._result(model, batch, losses) for batch in self._batches(model)]
        each = {result.number: result for result in self._gathered(own)}
        results = [each[number] for number in sorted(each)]
        figures: dict[str, float] = {}
        for index, probe in enumerate(self.probes):
            outputs = [output for result in results for output in result.outputs[index]]
            figures |= probe.figures(outputs)
            self._write_examples(step, probe, outputs)
        closeness = Closeness(self.table_scale)
        for result in results:
            closeness.merge(result.closeness)
        figures["relative_mse"] = closeness.figures()["relative_mse"]
        if losses is not None:
            sums, counts = (added([getattr(result, name) for result in results]) for name in ("sums", "counts"))
            figures |= losses.dev_losses(sums, counts)
        return Evaluation(figures)

    @property
    def _share(self) -> tuple[int, int]:
        """Rank and world."""
        if self.accelerator is None:
            return 0, 1
        return self.accelerator.process_index, self.accelerator.num_processes

    def _batches(self, model: Projector) -> Iterator[DeviceBatch]:
        (rank, world), last = self._share, self.dev.batch_count(READ_BATCH) - 1
        numbers = list(range(rank, last + 1, world))
        if self.in_step:
            numbers += [last] * (last // world + 1 - len(numbers))
        return self.dev.batches(model.device, READ_BATCH, numbers)

    def _gathered(self, own: list[BatchResult]) -> list[BatchResult]:
        """The results of all processes."""
        if self.accelerator is None or self.accelerator.num_processes == 1:
            return own
        results: list[BatchResult] = gather_object(own)
        return results

    def _result(self, model: Projector, batch: DeviceBatch, losses: Losses | None) -> BatchResult:
        projected = model.project(batch.features_BTD, batch.frames_B)
        closeness = Closeness(self.table_scale)
        closeness.add(self.readout.head.padded_inputs(projected), batch)
        sums, counts = losses.dev_sums(projected, batch) if losses is not None else ({}, {})
        outputs = [self._answers(probe, projected, batch.micro) for probe in self.probes]
        return BatchResult(batch.micro, sums, counts, closeness, outputs)

    def _answers(self, probe: Probe, projected: Projected, number: int) -> list[str]:
        """The LLM's answers to the probe's questions about a batch of the dev set."""
        questions, answers = _questions(probe, number), []
        for start in range(0, len(questions), READ_BATCH):
            asked = questions[start : start + READ_BATCH]
            chosen = projected.rows([question.row - number * READ_BATCH for question in asked])
            answers += self.readout.read(chosen, [question.instruction for question in asked])
        for _ in range(self._missing_reads(probe, number)):
            self.readout.read(projected.rows([0]), [probe.questions[0].instruction])
        return [probe.task.cleaned(answer) for answer in answers]

    def _missing_reads(self, probe: Probe, number: int) -> int:
        """How often less than others, in step, this process reads for a probe's questions about its batch."""
        if not self.in_step:
            return 0
        (_, world), last = self._share, self.dev.batch_count(READ_BATCH) - 1
        first = number // world * world
        reads = {each: _reads(probe, each) for each in range(first, min(first + world, last + 1))}
        return max(reads.values()) - reads[number]

    def _write_examples(self, step: int, probe: Probe, outputs: Sequence[str]) -> None:
        if self.accelerator is not None and not self.accelerator.is_main_process:
            return
        references = [question.item.reference for question in probe.questions]
        asked = [f"{probe.name}: {question.instruction.text}" for question in probe.questions] if probe.name else None
        write_examples(self.dev.out, step, references, outputs, self.dev.examples, asked)


def _questions(probe: Probe, number: int) -> list[Question]:
    """A probe's questions about a batch of the dev set."""
    rows = range(number * READ_BATCH, (number + 1) * READ_BATCH)
    return [question for question in probe.questions if question.row in rows]


def _reads(probe: Probe, number: int) -> int:
    """How often the LLM reads for them."""
    return math.ceil(len(_questions(probe, number)) / READ_BATCH)


def added(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The sums over all parts, by name."""
    total: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total


def asr_probe(dev: DevSet) -> Probe:
    """The transcripts of the dev set, as evaluation asks for them."""
    return _probe("", ASR.with_normalizer(dev.normalizer), [[Item(text)] for text in dev.references])


def probes_of(tasks: Mixture, unseen: Sequence[Task], fields: Sequence[Fields]) -> list[Probe]:
    """What the LLM is asked: transcripts, the other trained tasks, all trained ones in wordings that are not trained,
    and tasks that are not trained.

    Args:
        fields: of the dev set's utterances. A task that none of them has an item for is left out.
    """
    trained = [task for task, rate in tasks.rates if rate > 0]
    asked = {task.name: task for task in (tasks.fallback, *trained)}
    probes = [_probe(_name(TRAINED_TASK, task), task, _items(task, fields)) for task in asked.values()]
    probes += [_unseen_wordings(task, fields) for task in trained]
    probes += [_probe(f"{UNSEEN_TASK}_{task.name}", task, _items(task, fields)) for task in unseen]
    return [probe for probe in probes if probe.questions]


def _name(what: str, task: Task) -> str:
    return ("" if what == TRAINED_TASK else what) if task.name == ASR.name else f"{what}_{task.name}"


def _items(task: Task, fields: Sequence[Fields]) -> list[list[Item]]:
    return [task.items(each) for each in fields]


def _probe(name: str, task: Task, items: Sequence[Sequence[Item]]) -> Probe:
    questions = [Question(row, item, task.instruction(item)) for row, each in enumerate(items) for item in each]
    return Probe(name, task, questions)


def _unseen_wordings(task: Task, fields: Sequence[Fields]) -> Probe:
    """The task in the wordings kept out of training: the rows take turns at them, so that it takes one pass."""
    questions = []
    for row, each in enumerate(fields):
        for item in task.items(each):
            kept = task.unseen_instructions(item)
            questions += [Question(row, item, kept[row % len(kept)])] if kept else []
    return Probe(_name(UNSEEN_WORDING, task), task, questions)
