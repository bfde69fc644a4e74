"""From an utterance and a task to a prompt: token ids around the place where the speech vectors go.

    system turn      You repeat what the user quotes.
    user turn        "SPEECH" Repeat the text in quotes once, and nothing else.
    assistant turn   the dog ran<|im_end|>

    Prompt(before=[ids up to the first quote], after=[ids from the second quote to the assistant's turn],
           answer=[ids of the answer and the end of turn])

The wording is data (`prompts/*.yaml`), the turns are the tokenizer's own chat template. Speech comes first in
the user turn, inside double quotes, then the instruction (paper).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sm_pipeline.text import normalise
from sm_store.errors import ConfigError, ModelError

PROMPT_FOLDER = Path(__file__).parent / "prompts"
ANY_LANGUAGE = "any"
SPEECH_MARK = "<<<speech>>>"  # where the vectors go, while the chat template is filled in
ANSWER_MARK = "<<<answer>>>"


@dataclass(frozen=True, slots=True)
class PromptFile:
    """One task's wordings: by language of the answer, or under `any`."""

    task: str
    system: str
    wordings: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids before and after the speech vectors, and of the answer with its end of turn."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    answer: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """What an utterance offers the tasks; absent things are None."""

    text: str
    question: str | None = None
    answer: str | None = None
    translation: Mapping[str, str] | None = None


@lru_cache
def load_prompt_file(task: str) -> PromptFile:
    """The shipped wordings of a task (asr, st, sqa).

    Raises:
        ConfigError: no such task, or a file of another form.
    """
    path = PROMPT_FOLDER / f"{task}.yaml"
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        wordings = {str(language): tuple(map(str, lines)) for language, lines in data["wordings"].items()}
        system = str(data["system"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not a prompt file (system, wordings by language): {error}") from error
    if not all(wordings.values()):
        raise ConfigError(f"{path}: a language without wordings")
    return PromptFile(task, system, wordings)


def tasks_of(example: Example) -> list[str]:
    """The tasks this utterance has an answer for."""
    tasks = ["asr"]
    if example.translation:
        tasks.append("st")
    if example.question and example.answer:
        tasks.append("sqa")
    return tasks


class Prompter:
    """Writes prompts for one LLM.

    Args:
        tokenizer: the LLM's Hugging Face tokenizer. Without a chat template the turns are plain lines.

    Raises:
        ModelError: a chat template that changes or drops the quoted text, or no end-of-turn token.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._turns: dict[tuple[str, str], tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self.end_of_turn = self._find_end_of_turn()

    def asr(self, text: str | None = None, wording: int = 0) -> Prompt:
        """Repeat the speech; `text` is the transcript to learn, normalised here."""
        file = load_prompt_file("asr")
        answer = None if text is None else normalise(text)
        return self._prompt(file.system, pick(file.wordings[ANY_LANGUAGE], wording), answer)

    def translation(self, language: str, text: str | None = None, wording: int = 0) -> Prompt:
        """Translate into `language`; `text` is the translation to learn.

        Raises:
            ConfigError: no wording in that language.
        """
        file = load_prompt_file("st")
        if language not in file.wordings:
            raise ConfigError(f"no translation prompt for {language!r}; prompts/st.yaml has {', '.join(file.wordings)}")
        return self._prompt(file.system, pick(file.wordings[language], wording), text)

    def question(self, question: str, answer: str | None = None, wording: int = 0) -> Prompt:
        """Answer a question about the speech; `answer` is the one to learn."""
        file = load_prompt_file("sqa")
        instruction = pick(file.wordings[ANY_LANGUAGE], wording).replace("{question}", question)
        return self._prompt(file.system, instruction, answer)

    def training(self, example: Example, task: str, asr_share: float, rng: np.random.Generator) -> Prompt:
        """A prompt for training with answer: task, wording and language drawn from `rng`.

        `asr_share` of the utterances are trained as ASR; so is one that has no answer for `task`. `mix` draws
        among the tasks the utterance has an answer for.
        """
        offered = tasks_of(example)
        chosen = offered[int(rng.integers(len(offered)))] if task == "mix" else task
        if task != "mix" and (rng.random() < asr_share or task not in offered):
            chosen = "asr"
        wording = int(rng.integers(2**31))
        if chosen == "st" and example.translation:
            language = sorted(example.translation)[int(rng.integers(len(example.translation)))]
            return self.translation(language, example.translation[language], wording)
        if chosen == "sqa" and example.question:
            return self.question(example.question, example.answer, wording)
        return self.asr(example.text, wording)

    def shown(self, prompt: Prompt) -> str:
        """A prompt as text, `<<<speech>>>` where the vectors go."""
        before, after = (self._tokenizer.decode(list(ids)) for ids in (prompt.before, prompt.after))
        return f"{before}{SPEECH_MARK}{after}"

    def _prompt(self, system: str, instruction: str, answer: str | None) -> Prompt:
        before, after = self._turn(system, instruction)
        if answer is None:
            return Prompt(before, after)
        return Prompt(before, after, (*self._ids(answer), self.end_of_turn))

    def _turn(self, system: str, instruction: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if (system, instruction) not in self._turns:
            text = self._render(system, f'"{SPEECH_MARK}" {instruction}')
            before, mark, after = text.partition(SPEECH_MARK)
            if not mark or SPEECH_MARK in after:
                raise ModelError(
                    "the LLM's chat template does not keep the user's text as it is; use an instruction "
                    "model with a plain chat template"
                )
            self._turns[system, instruction] = (self._ids(before), self._ids(after))
        return self._turns[system, instruction]

    def _render(self, system: str, user: str, answer: str | None = None) -> str:
        """The conversation as text, up to the assistant's turn or with its answer."""
        if not getattr(self._tokenizer, "chat_template", None):
            start = self._tokenizer.bos_token or ""
            return f"{start}{system}\n{user}\n" + ("" if answer is None else f"{answer}{self._tokenizer.eos_token}")
        from jinja2 import TemplateError

        turns = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        try:
            return self._filled(turns, answer)
        except TemplateError:  # templates without a system role (Gemma) raise
            return self._filled([{"role": "user", "content": f"{system}\n{user}"}], answer)

    def _filled(self, turns: list[dict[str, str]], answer: str | None) -> str:
        if answer is not None:
            turns = [*turns, {"role": "assistant", "content": answer}]
        text: str = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer is None)
        return text

    def _find_end_of_turn(self) -> int:
        """The token the template puts after an answer if it is a special one, else the end of sequence."""
        ids = self._ids(self._render("s", "u", ANSWER_MARK).partition(ANSWER_MARK)[2])
        if ids and ids[0] in self._tokenizer.all_special_ids:
            return ids[0]
        if self._tokenizer.eos_token_id is None:
            raise ModelError("the LLM's tokenizer names no end-of-sequence token")
        return int(self._tokenizer.eos_token_id)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def pick(wordings: Sequence[str], number: int) -> str:
    """One of the wordings by any whole number; 0 is the one evaluation uses."""
    return wordings[number % len(wordings)]
