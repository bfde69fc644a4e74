"""Prompts: the layout, the data files, the draws."""

from __future__ import annotations

import numpy as np
import pytest

from sm_store.errors import ConfigError, ModelError
from speechmapper.prompting import (
    PROMPT_FOLDER,
    SPEECH_MARK,
    Example,
    Prompter,
    load_prompt_file,
    pick,
    tasks_of,
)
from tests.speechmapper.tiny import tokenizer

FULL = Example("The dog slept.", "Who slept?", "the dog", {"de": "Der Hund schlief.", "fr": "Le chien dormait."})


@pytest.fixture
def prompter() -> Prompter:
    return Prompter(tokenizer())


def words(ids) -> list[str]:
    return tokenizer().convert_ids_to_tokens(list(ids))


def test_layout_is_system_then_quoted_speech_then_instruction(prompter):
    shown = prompter.shown(prompter.asr())
    system, user, assistant = shown.index("system"), shown.rindex("user"), shown.rindex("assistant")
    speech = shown.index(SPEECH_MARK)
    assert system < user < speech < assistant
    before, after = shown.split(SPEECH_MARK)
    assert before.rstrip().endswith('"') and after.lstrip().startswith('"')  # inside double quotes
    assert before.rstrip()[:-1].rstrip().endswith("user")  # speech is the first thing the user says
    assert "quoted text" in after or "text" in after  # the instruction follows


def test_the_answer_is_normalised_text_and_the_end_of_turn(prompter):
    answer = prompter.asr("The dog, SLEPT!").answer
    assert words(answer) == ["the", "dog", "slept", "<|im_end|>"]
    assert prompter.asr().answer == ()


def test_prompts_around_the_answer_do_not_depend_on_it(prompter):
    with_answer, without = prompter.asr("the dog"), prompter.asr()
    assert (with_answer.before, with_answer.after) == (without.before, without.after)


def test_question_comes_before_your_answer(prompter):
    after = " ".join(words(prompter.question("who slept", "the dog").after))
    assert "slept <unk> answer :" in after or "slept" in after
    text = load_prompt_file("sqa").wordings["any"][0].replace("{question}", "Who slept?")
    assert text == "Who slept? Your answer:"


def test_braces_in_a_question_are_only_text(prompter):
    assert prompter.question("what is {this} and {0}").after


def test_translation_asks_in_the_target_language():
    assert "Deutsche" in load_prompt_file("st").wordings["de"][0]
    assert "français" in load_prompt_file("st").wordings["fr"][0]
    with pytest.raises(ConfigError, match=r"no translation prompt for 'xx'; prompts/st\.yaml has en, de"):
        Prompter(tokenizer()).translation("xx")


@pytest.mark.parametrize("task", ["asr", "st", "sqa"])
def test_prompt_files_have_several_wordings(task):
    file = load_prompt_file(task)
    assert file.system
    assert all(len(set(lines)) >= 2 for lines in file.wordings.values())
    assert (PROMPT_FOLDER / f"{task}.yaml").read_text(encoding="utf-8").startswith("#")


def test_unknown_task_is_an_error():
    with pytest.raises(ConfigError, match=r"dance\.yaml"):
        load_prompt_file("dance")


def test_without_a_chat_template_the_turns_are_lines():
    prompter = Prompter(tokenizer(template=None))
    prompt = prompter.asr("the dog")
    assert words(prompt.before)[0] == "<s>"
    assert words(prompt.answer) == ["the", "dog", "</s>"]


def test_a_template_without_system_role_gets_it_in_the_user_turn():
    template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<|im_start|> {{ m['role'] }} {{ m['content'] }} <|im_end|> {% endfor %}"
    )
    shown = Prompter(tokenizer(template)).asr()
    assert "system" not in words(shown.before)
    assert "repeat" in words(shown.before)


def test_a_template_that_loses_the_speech_is_refused():
    with pytest.raises(ModelError, match="chat template"):
        Prompter(tokenizer("{% for m in messages %}<|im_start|> {{ m['role'] }} {% endfor %}")).asr()


def test_tasks_an_utterance_offers():
    assert tasks_of(FULL) == ["asr", "st", "sqa"]
    assert tasks_of(Example("a")) == ["asr"]
    assert tasks_of(Example("a", question="b")) == ["asr"]


def drawn(prompter: Prompter, task: str, share: float, example: Example = FULL, count: int = 300) -> list[str]:
    """What kind of answers training prompts have."""
    rng = np.random.default_rng(0)
    kinds = {
        prompter.asr(FULL.text).answer: "asr",
        prompter.question("", FULL.answer).answer: "sqa",
        prompter.translation("de", FULL.translation["de"]).answer: "st",
        prompter.translation("fr", FULL.translation["fr"]).answer: "st",
    }
    return [kinds[prompter.training(example, task, share, rng).answer] for _ in range(count)]


def test_asr_share_mixes_asr_into_a_task(prompter):
    kinds = drawn(prompter, "sqa", 0.5)
    assert set(kinds) == {"asr", "sqa"}
    assert 0.4 < kinds.count("asr") / len(kinds) < 0.6
    assert set(drawn(prompter, "st", 0.0)) == {"st"}
    assert set(drawn(prompter, "asr", 0.0)) == {"asr"}


def test_mix_draws_among_what_there_is(prompter):
    assert set(drawn(prompter, "mix", 0.0)) == {"asr", "st", "sqa"}
    assert set(drawn(prompter, "mix", 0.0, Example(FULL.text))) == {"asr"}


def test_an_utterance_without_an_answer_for_the_task_is_asr(prompter):
    assert set(drawn(prompter, "sqa", 0.0, Example(FULL.text))) == {"asr"}


def test_wordings_vary_in_training_and_not_in_evaluation(prompter):
    rng = np.random.default_rng(0)
    assert len({prompter.training(FULL, "asr", 0.0, rng).after for _ in range(50)}) > 1
    assert prompter.asr().after == prompter.asr(wording=0).after


def test_same_draws_same_prompts(prompter):
    one, two = np.random.default_rng(4), np.random.default_rng(4)
    assert [prompter.training(FULL, "mix", 0.3, one) for _ in range(20)] == [
        prompter.training(FULL, "mix", 0.3, two) for _ in range(20)
    ]


def test_pick_wraps_around():
    assert [pick(("a", "b"), number) for number in (0, 1, 2, 7)] == ["a", "b", "a", "b"]
