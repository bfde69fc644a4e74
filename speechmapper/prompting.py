"""From an instruction to a prompt: token ids around the place where the speech vectors go.

    system turn      You repeat what the user quotes.
    user turn        "SPEECH" Repeat the text in quotes once, and nothing else.
    assistant turn   the dog ran<|im_end|>

    Prompt(before=[ids up to the first quote], after=[ids from the second quote to the assistant's turn],
           answer=[ids of the answer and the end of turn])

What is asked comes from a task (`speechmapper/tasks/`); the turns are the tokenizer's own chat template. Speech comes
first in the user turn, inside double quotes, then the instruction (paper).

Templates that let the LLM think are told not to, and one that opens its reasoning or a channel all the same is taken to
where the answer begins. A template that prints today's date prints `DATE`, so that a prompt is the same every day.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sm_store.errors import ModelError

SPEECH_MARK = "<<<speech>>>"  # where the vectors go, while the chat template is filled in
ANSWER_MARK = "<<<answer>>>"
DATE = datetime.date(2024, 7, 26)  # what "today" is in a prompt: the date Llama 3's templates give where there is none
_ASKS_DATE = re.compile(r"""strftime_now\(\s*(["'])(.+?)\1\s*\)""")
# The names under which templates ask whether to reason first: Qwen 3 and SmolLM3; DeepSeek V3.1 and Granite.
NO_REASONING = {"enable_thinking": False, "thinking": False}
REASONING_OPENS, REASONING_CLOSES = "<think>", "\n\n</think>\n\n"
SPOKEN = ("a", "the", "no")  # stand for speech before the closing quote: a token ends where the first fitting one does


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
        examples: texts and their answers, given as earlier turns in the same words, the texts in place of the speech.
    """

    system: str
    text: str
    answer: str | None = None
    examples: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Turns:
    """The turns around the speech: token ids before and after it, and the text after it, from which answers go on."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    after_text: str


class Prompter:
    """Writes prompts for one LLM.

    Args:
        tokenizer: the LLM's Hugging Face tokenizer. Without a chat template the turns are plain lines.
        ends: ids that end an answer by the LLM's generation settings, whether or not they are flagged special.

    Attributes:
        end_of_turn: the id that ends an answer to learn.
        stop_ids: every id that ends an answer: that one, others the template puts there, `ends`, end of sequence.

    Raises:
        ModelError: a chat template that refuses plain turns, changes or drops the quoted text, or no end-of-turn token.
    """

    def __init__(self, tokenizer: Any, ends: Iterable[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._turns: dict[Instruction, _Turns] = {}
        own = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        known = [*own, *ends]
        unanswered, answered = self._render("s", "u"), self._render("s", "u", ANSWER_MARK)
        self._opening, self._space = _answer_start(unanswered, answered.partition(ANSWER_MARK)[0])
        closing = self._closing_ids(answered.partition(ANSWER_MARK)[2], special_ids(tokenizer).union(known))
        if not (closing or known):
            raise ModelError("the LLM's tokenizer names no end-of-sequence token")
        self.end_of_turn = (closing or known)[0]
        self.stop_ids = frozenset([*closing, *known])

    def template(self) -> dict[str, Any]:
        """What was given to the chat template besides the turns, for identities (JSON values); empty without one."""
        if not self._has_template:
            return {}
        return {**NO_REASONING, "date": DATE.isoformat(), "opening": self._opening}

    def write(self, instruction: Instruction) -> Prompt:
        """The prompt of an instruction, with the answer's ids where it has one."""
        turns = self._turns_of(replace(instruction, answer=None))
        if instruction.answer is None:
            return Prompt(turns.before, turns.after)
        answer = self._ids_after([turns.after_text], f"{self._space}{instruction.answer}", instruction.answer)
        return Prompt(turns.before, turns.after, (*answer, self.end_of_turn))

    def text_ids(self, system: str, user: str) -> tuple[int, ...]:
        """Ids of a conversation without speech, up to where the assistant's answer begins."""
        return self._ids(self._render(system.strip(), user) + self._opening)

    def shown(self, prompt: Prompt) -> str:
        """A prompt as text, `<<<speech>>>` where the vectors go."""
        before, after = (self._tokenizer.decode(list(ids)) for ids in (prompt.before, prompt.after))
        return f"{before}{SPEECH_MARK}{after}"

    @property
    def _has_template(self) -> bool:
        return bool(getattr(self._tokenizer, "chat_template", None))

    def _turns_of(self, instruction: Instruction) -> _Turns:
        if instruction not in self._turns:
            shown = [(f'"{text}" {instruction.text}', answer) for text, answer in instruction.examples]
            text = self._render(instruction.system.strip(), f'"{SPEECH_MARK}" {instruction.text}', earlier=shown)
            before, mark, after = text.partition(SPEECH_MARK)
            if not mark or SPEECH_MARK in after:
                raise ModelError(
                    "the LLM's chat template does not keep the user's text as it is; use an instruction "
                    "model with a plain chat template"
                )
            after += self._opening
            ids = self._ids_after(SPOKEN, after, after)
            self._turns[instruction] = _Turns(self._ids(before), ids, after)
        return self._turns[instruction]

    def _render(
        self, system: str, user: str, answer: str | None = None, earlier: Sequence[tuple[str, str]] = ()
    ) -> str:
        """The conversation as text, up to the assistant's turn or with its answer; `earlier` user turns and answers."""
        if not self._has_template:
            start, end = self._tokenizer.bos_token or "", self._tokenizer.eos_token or ""
            before = "".join(f"{asked}\n{answered}\n" for asked, answered in earlier)
            return f"{start}{system}\n{before}{user}\n" + ("" if answer is None else f"{answer}{end}")
        from jinja2 import TemplateError

        pairs = [*earlier, (user, answer)]
        turns = [
            {"role": role, "content": content}
            for pair in pairs
            for role, content in zip(("user", "assistant"), pair, strict=True)
            if content is not None
        ]
        try:
            text = self._filled([{"role": "system", "content": system}, *turns], answer is None)
        except TemplateError:  # a template without a system role raises (Gemma), or leaves that turn out
            text = ""
        if system in text:
            return text
        try:
            first = {"role": "user", "content": f"{system}\n{turns[0]['content']}"}
            return self._filled([first, *turns[1:]], answer is None)
        except TemplateError as error:
            raise ModelError(f"the LLM's chat template takes no plain turns ({error}); use another LLM") from error

    def _filled(self, turns: list[dict[str, str]], unanswered: bool) -> str:
        template = _ASKS_DATE.sub(lambda found: repr(DATE.strftime(found[2])), self._tokenizer.get_chat_template())
        text: str = self._tokenizer.apply_chat_template(
            turns, chat_template=template, tokenize=False, add_generation_prompt=unanswered, **NO_REASONING
        )
        return text

    def _closing_ids(self, text: str, ending: Collection[int]) -> list[int]:
        """The ids among `ending` in the text the template puts after an answer, with at most spaces around them."""
        closing = []
        for token in self._ids(text):
            if token in ending:
                closing.append(token)
            elif self._tokenizer.decode([token]).strip():
                break
        return closing

    def _ids_after(self, contexts: Iterable[str], text: str, alone: str) -> tuple[int, ...]:
        """Ids of a text that follows one of `contexts`, as the whole is tokenised.

        A SentencePiece tokenizer of the older kind begins every text with a space, which does not belong inside one.
        Where no context ends at the boundary of a token, the ids are those of `alone`.
        """
        for context in contexts:
            start, whole = self._ids(context), self._ids(context + text)
            if whole[: len(start)] == start:
                return whole[len(start) :]
        return self._ids(alone)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of the special tokens: those with a role (end of sequence, ...), and every added one flagged special.

    Gemma's `<end_of_turn>` and Phi's `<|end|>` have no role.
    """
    flagged = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    return flagged | set(tokenizer.all_special_ids)


def _answer_start(unanswered: str, answered: str) -> tuple[str, str]:
    """What a prompt lacks up to the answer, and the space with which an answer then begins.

    Args:
        unanswered: a conversation up to the assistant's turn; answered: the same one up to its answer.

    Returns:
        Text to add to the prompt, and white space; one of them is empty.
    """
    between = answered.removeprefix(unanswered) if answered.startswith(unanswered) else ""
    stripped = unanswered.rstrip()
    if not between.strip() and stripped.endswith(REASONING_OPENS):
        return REASONING_CLOSES.removeprefix(unanswered.removeprefix(stripped)), ""
    return (between, "") if between.strip() else ("", between)
