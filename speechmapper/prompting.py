"""From an instruction to a prompt: token ids around the place where the speech vectors go.

    system turn      You repeat what the user quotes.
    user turn        "SPEECH" Repeat the text in quotes once, and nothing else.
    assistant turn   the dog ran<|im_end|>

    Prompt(before=[ids up to the first quote], after=[ids from the second quote to the assistant's turn],
           answer=[ids of the answer and the end of turn])

What is asked comes from a task (`speechmapper/tasks/`); the turns are the tokenizer's own chat template. Speech comes
first in the user turn, inside double quotes, then the instruction (paper).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from sm_store.errors import ModelError

SPEECH_MARK = "<<<speech>>>"  # where the vectors go, while the chat template is filled in
ANSWER_MARK = "<<<answer>>>"


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids before and after the speech vectors, and of the answer with its end of turn."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    answer: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Instruction:
    """What the LLM is told about the speech.

    Attributes:
        system: of the system turn. text: what follows the quoted speech in the user turn.
        answer: to learn; None where the LLM is to give it.
    """

    system: str
    text: str
    answer: str | None = None


class Prompter:
    """Writes prompts for one LLM.

    Args:
        tokenizer: the LLM's Hugging Face tokenizer. Without a chat template the turns are plain lines.
        ends: ids that end an answer by the LLM's generation settings, whether or not they are flagged special.

    Attributes:
        end_of_turn: the id that ends an answer to learn.
        stop_ids: every id that ends an answer: that one, others the template puts there, `ends`, end of sequence.

    Raises:
        ModelError: a chat template that changes or drops the quoted text, or no end-of-turn token.
    """

    def __init__(self, tokenizer: Any, ends: Iterable[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._turns: dict[tuple[str, str], tuple[tuple[int, ...], tuple[int, ...]]] = {}
        own = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        known = {*ends, *own}
        closing = self._closing_ids(known | special_ids(tokenizer)) or own
        if not closing:
            raise ModelError("the LLM's tokenizer names no end-of-sequence token")
        self.end_of_turn = closing[0]
        self.stop_ids = frozenset([*closing, *known])

    def write(self, instruction: Instruction) -> Prompt:
        """The prompt of an instruction, with the answer's ids where it has one."""
        before, after = self._turn(instruction.system, instruction.text)
        if instruction.answer is None:
            return Prompt(before, after)
        return Prompt(before, after, (*self._ids(instruction.answer), self.end_of_turn))

    def shown(self, prompt: Prompt) -> str:
        """A prompt as text, `<<<speech>>>` where the vectors go."""
        before, after = (self._tokenizer.decode(list(ids)) for ids in (prompt.before, prompt.after))
        return f"{before}{SPEECH_MARK}{after}"

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

    def _closing_ids(self, ending: Collection[int]) -> list[int]:
        """The ids among `ending` that the template puts after an answer, with at most spaces around them."""
        closing = []
        for token in self._ids(self._render("s", "u", ANSWER_MARK).partition(ANSWER_MARK)[2]):
            if token in ending:
                closing.append(token)
            elif self._tokenizer.decode([token]).strip():
                break
        return closing

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of the special tokens: those with a role (end of sequence, ...), and every added one flagged special.

    Gemma's `<end_of_turn>` and Phi's `<|end|>` have no role.
    """
    flagged = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    return flagged | set(tokenizer.all_special_ids)
