"""Prompts: the layout, the chat template's turns, the answer."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

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


TURNS = "{% for m in messages %}<|im_start|> {{ m['role'] }} {{ m['content'] }}CLOSING{% endfor %}"


def closing_with(closing: str, special: bool) -> PreTrainedTokenizerFast:
    """A tokenizer whose template closes each turn in another way; `<end>` is added, without a role."""
    made = tokenizer(TURNS.replace("CLOSING", closing))
    made.add_tokens([AddedToken("<end>", special=special)])
    assert made.convert_tokens_to_ids("<end>") not in made.all_special_ids
    return made


@pytest.mark.parametrize("closing", ["<end>", "<end> ", " <end>"])
def test_an_added_token_flagged_special_ends_a_turn_without_having_a_role(closing):
    """Gemma's `<end_of_turn>`, Phi's `<|end|>`."""
    made = closing_with(closing, special=True)
    end = made.convert_tokens_to_ids("<end>")
    assert Prompter(made).end_of_turn == end
    assert Prompter(made).write(Instruction("s", "u", "the dog")).answer[-1] == end
    assert Prompter(made).stop_ids == {end, made.eos_token_id}


def test_every_token_that_closes_a_turn_ends_an_answer_and_the_first_is_learned():
    made = closing_with("<end> </s>", special=True)
    assert Prompter(made).end_of_turn == made.convert_tokens_to_ids("<end>")
    assert made.eos_token_id in Prompter(made).stop_ids
    swapped = closing_with("</s> <end>", special=True)
    assert Prompter(swapped).end_of_turn == swapped.eos_token_id
    assert swapped.convert_tokens_to_ids("<end>") in Prompter(swapped).stop_ids


def test_an_unflagged_token_ends_a_turn_where_the_generation_settings_say_so():
    made = closing_with("<end>", special=False)
    end = made.convert_tokens_to_ids("<end>")
    assert Prompter(made).end_of_turn == made.eos_token_id
    assert Prompter(made, [end, 7]).end_of_turn == end
    assert Prompter(made, [end, 7]).stop_ids == {end, 7, made.eos_token_id}


def test_text_after_an_answer_is_no_end_of_turn():
    made = closing_with(" the <end>", special=True)
    assert Prompter(made).end_of_turn == made.eos_token_id


def test_a_tokenizer_without_any_end_is_refused():
    made = tokenizer("{% for m in messages %}{{ m['content'] }} {% endfor %}")
    made.eos_token = None
    with pytest.raises(ModelError, match="names no end-of-sequence token"):
        Prompter(made)
