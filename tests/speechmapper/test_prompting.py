"""Prompts: the layout, the chat template's turns, the answer."""

from __future__ import annotations

import pytest

from sm_store.errors import ModelError
from speechmapper.prompting import SPEECH_MARK, Instruction, Prompt, Prompter
from speechmapper.tasks import ASR, Item
from tests.speechmapper.tiny import tokenizer


@pytest.fixture
def prompter() -> Prompter:
    return Prompter(tokenizer())


def words(ids) -> list[str]:
    return tokenizer().convert_ids_to_tokens(list(ids))


def asr(prompter: Prompter, text: str | None = None) -> Prompt:
    return prompter.write(ASR.instruction(Item(text or ""), learn=text is not None))


def test_layout_is_system_then_quoted_speech_then_instruction(prompter):
    shown = prompter.shown(asr(prompter))
    system, user, assistant = shown.index("system"), shown.rindex("user"), shown.rindex("assistant")
    speech = shown.index(SPEECH_MARK)
    assert system < user < speech < assistant
    before, after = shown.split(SPEECH_MARK)
    assert before.rstrip().endswith('"') and after.lstrip().startswith('"')  # inside double quotes
    assert before.rstrip()[:-1].rstrip().endswith("user")  # speech is the first thing the user says
    assert "quoted text" in after or "text" in after  # the instruction follows


def test_the_answer_is_normalised_text_and_the_end_of_turn(prompter):
    answer = asr(prompter, "The dog, SLEPT!").answer
    assert words(answer) == ["the", "dog", "slept", "<|im_end|>"]
    assert asr(prompter).answer == ()


def test_prompts_around_the_answer_do_not_depend_on_it(prompter):
    with_answer, without = asr(prompter, "the dog"), asr(prompter)
    assert (with_answer.before, with_answer.after) == (without.before, without.after)


def test_system_turn_and_instruction_are_written_as_given(prompter):
    shown = prompter.shown(prompter.write(Instruction("dog", "slept walked")))
    before, after = shown.split(SPEECH_MARK)
    assert "dog" in before and "slept walked" in after


def test_without_a_chat_template_the_turns_are_lines():
    prompt = asr(Prompter(tokenizer(template=None)), "the dog")
    assert words(prompt.before)[0] == "<s>"
    assert words(prompt.answer) == ["the", "dog", "</s>"]


def test_a_template_without_system_role_gets_it_in_the_user_turn():
    template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<|im_start|> {{ m['role'] }} {{ m['content'] }} <|im_end|> {% endfor %}"
    )
    shown = asr(Prompter(tokenizer(template)))
    assert "system" not in words(shown.before)
    assert "repeat" in words(shown.before)


def test_a_template_that_loses_the_speech_is_refused():
    with pytest.raises(ModelError, match="chat template"):
        asr(Prompter(tokenizer("{% for m in messages %}<|im_start|> {{ m['role'] }} {% endfor %}")))
