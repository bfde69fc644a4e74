"""Prompts: the layout, the chat template's turns, the answer."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sm_store.errors import ModelError
from speechmapper.prompting import SPEECH_MARK, Instruction, Prompt, Prompter
from speechmapper.tasks import ASR, Item
from tests.speechmapper.tiny import PUNCTUATION, WORDS, tokenizer


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


SHOWN = (("the dog", "the"), ("a red bird", "a"))


def test_examples_are_earlier_turns_in_the_words_of_the_instruction(prompter):
    prompt = prompter.write(Instruction("dog", "slept walked", examples=SHOWN))
    start, end = "<|im_start|>", "<|im_end|>"
    first = f'{start} user " the dog " slept walked {end} {start} assistant the {end}'
    second = f'{start} user " a red bird " slept walked {end} {start} assistant a {end}'
    assert " ".join(words(prompt.before)) == f'{start} system dog {end} {first} {second} {start} user "'
    assert " ".join(words(prompt.after)) == f'" slept walked {end} {start} assistant'


def test_examples_leave_other_prompts_of_the_same_words_as_they_are(prompter):
    plain = prompter.write(Instruction("dog", "slept walked"))
    assert prompter.write(Instruction("dog", "slept walked", examples=SHOWN)) != plain
    assert prompter.write(Instruction("dog", "slept walked")) == plain


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


# As the models' own templates have it, without their tools and their images.
QWEN3 = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}"
    "{%- if m.role == 'assistant' and loop.last %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{{- m.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
QWEN3_THINKING = QWEN3.partition("{%- if enable_thinking")[0] + "{{- '<think>\\n' }}{%- endif %}"
DEEPSEEK_V3_1 = (
    "{%- if not thinking is defined %}{% set thinking = false %}{% endif %}"
    "{%- for m in messages %}{{ m.content }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<think>' if thinking else '</think>' }}{%- endif %}"
)
DEEPSEEK_R1 = (
    "{%- for m in messages %}{{ '<|im_start|>' + m.content }}{%- if m.role == 'assistant' %}<|im_end|>{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|><think>\\n' }}{%- endif %}"
)
HARMONY = (
    "{%- for m in messages %}{{ '<|start|>' + m.role }}{{ '<|channel|>final' if m.role == 'assistant' }}"
    "{{ '<|message|>' + m.content + ('<|return|>' if m.role == 'assistant' else '<|end|>') }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|start|>assistant' }}{%- endif %}"
)
LLAMA_3_2 = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
    "{%- endif %}{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n\\n' }}"
    "{{ 'Today Date: ' + date_string + '\\n\\n' if m.role == 'system' }}{{ m.content + '<|im_end|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n\\n' }}{%- endif %}"
)


def byte_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """A token for each byte, so that nothing of a template is lost, and two special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({symbol: number for number, symbol in enumerate(alphabet)}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", extra_special_tokens=["<|im_end|>"])
    fast.chat_template = template
    return fast


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (QWEN3, "assistant\n<think>\n\n</think>\n\n"),
        (QWEN3_THINKING, "assistant\n<think>\n\n</think>\n\n"),
        (DEEPSEEK_R1, "<|im_start|><think>\n\n</think>\n\n"),
        (DEEPSEEK_V3_1, "added.</think>"),
        (HARMONY, "<|start|>assistant<|channel|>final<|message|>"),
        (LLAMA_3_2, "assistant\n\n"),
    ],
    ids=["asked not to", "always", "always, and not in the history", "another name for it", "channels", "never"],
)
def test_a_prompt_ends_where_the_answer_begins_and_not_in_reasoning(template, end):
    made = Prompter(byte_tokenizer(template))
    assert made.shown(asr(made)).endswith(end)
    assert asr(made, "the dog").after == asr(made).after


def test_a_date_in_the_prompt_is_the_same_every_day():
    made = Prompter(byte_tokenizer(LLAMA_3_2))
    assert "Today Date: 26 Jul 2024" in made.shown(asr(made))
    assert made.template() == {"enable_thinking": False, "thinking": False, "date": "2024-07-26", "opening": ""}
    assert Prompter(byte_tokenizer(HARMONY)).template()["opening"] == "<|channel|>final<|message|>"
    assert Prompter(tokenizer(template=None)).template() == {}


def test_a_template_that_leaves_the_system_turn_out_gets_it_in_the_user_turn():
    silent = "{% for m in messages if m.role != 'system' %}<|im_start|> {{ m.content }} <|im_end|> {% endfor %}"
    assert "repeat" in words(asr(Prompter(tokenizer(silent))).before)


def sentencepiece_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """Llama 2's pipeline, from its tokenizer.json: a space before every text, none split off; BPE by word."""
    pieces = ["▁", *(f"▁{word}" for word in WORDS), *WORDS, *PUNCTUATION, "▁Repeat", "Repeat", '▁"', "\n", "[", "]"]
    letters = sorted({letter for piece in pieces for letter in piece})
    vocabulary, merges = {}, []
    for piece in [*letters, *sorted(pieces, key=len)]:
        for end in range(1, len(piece) + 1):
            vocabulary.setdefault(piece[:end], len(vocabulary))
            if end > 1 and (piece[: end - 1], piece[end - 1]) not in merges:
                merges.append((piece[: end - 1], piece[end - 1]))
    made = Tokenizer(models.BPE(vocabulary, merges, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    fast.chat_template = template
    return fast


def test_a_template_that_takes_no_plain_turns_is_refused():
    with pytest.raises(ModelError, match=r"takes no plain turns \(images only\)"):
        Prompter(tokenizer("{{ raise_exception('images only') }}"))


@pytest.mark.parametrize("separator", [" ", "\n"], ids=["space", "line"])
def test_what_is_beside_the_speech_is_tokenised_as_the_whole_would_be(separator):
    made = sentencepiece_tokenizer(
        "<s>{% for m in messages if m.role != 'system' %}[{{ m.role }}]SEPARATOR{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}".replace("SEPARATOR", separator)
    )

    def ids(text: str) -> tuple[int, ...]:
        return tuple(made(text, add_special_tokens=False)["input_ids"])

    assert len(ids('"')) < len(ids('a"')) and ids('"')[0] != ids('a"')[-1]  # of the kind that this is about
    prompt = Prompter(made).write(Instruction("you", "Repeat", "the dog"))
    whole = ids(f'<s>[user]{separator}you\n"the dog" Repeat</s>[assistant]{separator}the dog</s>')
    speech = whole[len(prompt.before) : -len((*prompt.after, *prompt.answer))]
    assert (*prompt.before, *speech, *prompt.after, *prompt.answer) == whole
    assert made.decode(list(speech)).strip() == "the dog"


def test_a_prompt_of_text_alone_is_the_template_filled_in():
    prompter = Prompter(tokenizer())
    assert " ".join(words(prompter.text_ids(" you copy ", 'the "dog"'))) == (
        '<|im_start|> system you copy <|im_end|> <|im_start|> user the " dog " <|im_end|> <|im_start|> assistant'
    )
