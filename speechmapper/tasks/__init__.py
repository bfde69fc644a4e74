"""What the LLM is asked about speech: one file per task, their registry, and mixtures of them.

    TASKS["st"].items(fields)     what the task can ask of an utterance, each with its reference answer
    TASKS["st"].instruction(item)  what the LLM is told
    TASKS["st"].score(lines)       metrics of predictions
    mixture("sqa", 0.5)            half asr, half sqa: training draws a task, a wording and an item per utterance
    mixture("asr=0.5,mine.yaml=0.5")  a user's own task is a YAML file (speechmapper/tasks/file.py)

A new task of the project is a file with one `Task` and a line in `TASKS`; see docs/adding-a-task.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sm_pipeline.text import NORMALIZER
from sm_store.errors import ConfigError
from speechmapper.tasks.asr import SpeechRecognition
from speechmapper.tasks.base import Item, Mixture, Task, load_prompts
from speechmapper.tasks.file import FileTask, is_task_file, read_task
from speechmapper.tasks.sqa import SpokenQuestionAnswering
from speechmapper.tasks.st import SpeechTranslation
from speechmapper.tasks.store_fields import StoreFields

__all__ = ["ASR", "TASKS", "FileTask", "Item", "Mixture", "StoreFields", "Task", "chosen_task", "mixture", "task_of"]

ASR = SpeechRecognition()
TASKS: dict[str, Task] = {task.name: task for task in (ASR, SpeechTranslation(), SpokenQuestionAnswering())}
EVERY_TASK = "mix"  # all tasks at equal rates
LARGEST_RATE = 1e9  # their sum is finite


def mixture(
    text: str,
    asr_share: float = 0.0,
    normalizer: str = NORMALIZER,
    languages: Sequence[str] = (),
    prompts: str | None = None,
) -> Mixture:
    """The mixture that `--task` names.

    Args:
        text: a task, a task's YAML file, `mix` (every task at the same rate), or rates: `asr=0.5,sqa=0.5`.
        asr_share: rate of asr beside one other task.
        normalizer: name of the text normaliser of the answers to learn.
        languages: of translations; empty: all there are.
        prompts: a YAML file with wordings by task, used instead of the shipped ones.

    Raises:
        ConfigError: an unknown task, one named twice, a rate that is no positive number, a share beside rates, or
            an unusable file of prompts.
    """
    if text in TASKS or (is_task_file(text) and "=" not in text):
        rates = {text: 1.0} if text == ASR.name else {ASR.name: asr_share, text: 1 - asr_share}
    elif asr_share:
        raise ConfigError(f"tuning.asr_share {asr_share:g}: goes with one task, not with tuning.task {text!r}")
    elif text == EVERY_TASK:
        rates = dict.fromkeys(TASKS, 1.0)
    else:
        rates = _parse_rates(text)
    own = load_prompts(Path(prompts), TASKS) if prompts else {}
    tasks = {
        name: task_of(name).with_normalizer(normalizer).with_choices(own.get(name), languages)
        for name in (*TASKS, *(name for name in rates if name not in TASKS))
    }
    if len({task.name for task in tasks.values()}) < len(tasks):
        raise ConfigError(f"tuning.task {text!r}: two of its files are tasks of one name; give them different ones")
    return Mixture(tuple((tasks[name], rate) for name, rate in rates.items()), tasks[ASR.name])


def task_of(text: str) -> Task:
    """The task that a `--task` names: one of `TASKS`, or a YAML file.

    Raises:
        ConfigError: neither, not a task's file, or one with the name of another task.
    """
    if text in TASKS:
        return TASKS[text]
    if not is_task_file(text):
        raise ConfigError(f"--task {text}: use {', '.join(TASKS)}, or a task's YAML file")
    task = read_task(Path(text))
    if task.name in TASKS:
        raise ConfigError(f"{text}: name {task.name!r} is a task of ours; give it another name")
    return task


def chosen_task(text: str, languages: str | None = None) -> Task:
    """A task to evaluate.

    Args:
        text: one of `TASKS`, or a task's YAML file.
        languages: of the translations, separated by commas; None: all there are.

    Raises:
        ConfigError: see `task_of`; languages for a task that translates nothing.
    """
    task = task_of(text)
    if languages is None:
        return task
    if "translation" not in task.needs:
        raise ConfigError(f"--languages {languages}: {task.name} asks for no translation")
    chosen = [name.strip() for name in languages.split(",") if name.strip()]
    if not chosen:
        raise ConfigError(f"--languages {languages!r}: name at least one, such as de,fr")
    return task.with_choices(None, chosen)


def _parse_rates(text: str) -> dict[str, float]:
    rates: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.rpartition("=")
        try:
            rate = float(number)
        except ValueError:
            rate = 0.0
        known = name in TASKS or is_task_file(name)
        if not known or name in rates or not 0 < rate <= LARGEST_RATE:
            raise ConfigError(
                f"tuning.task {text!r}: use {', '.join((*TASKS, EVERY_TASK))}, a task's YAML file, or rates such as "
                "asr=0.5,sqa=0.5, each above 0"
            )
        rates[name] = rate
    return rates
