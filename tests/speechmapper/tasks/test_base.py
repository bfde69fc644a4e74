"""Prompt files, instructions, and mixtures of tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sm_pipeline.corpora import spoken_squad
from sm_pipeline.manifest import Utterance
from sm_store import Fields
from sm_store.errors import ConfigError
from speechmapper.tasks import ASR, TASKS, Item, mixture
from speechmapper.tasks.base import PROMPT_FOLDER, load_wordings
from tests.speechmapper.tiny import fields_of

FULL = fields_of("The dog slept.", "Who slept?", "the dog", {"de": "Der Hund schlief.", "fr": "Le chien dormait."})
ANSWERS = {"the dog slept": "asr", "the dog": "sqa", "Der Hund schlief.": "st", "Le chien dormait.": "st"}


def drawn(text: str, share: float = 0.0, example: Fields = FULL, count: int = 300) -> list[str]:
    """The tasks of training prompts, by what is to be learned."""
    rng, tasks = np.random.default_rng(0), mixture(text, share)
    return [ANSWERS[tasks.draw(example, rng).answer] for _ in range(count)]


@pytest.mark.parametrize("task", TASKS)
def test_prompt_files_have_several_wordings(task):
    wordings = TASKS[task].wordings
    assert wordings.system
    assert all(len(set(lines)) >= 2 for lines in wordings.by_language.values())
    assert (PROMPT_FOLDER / f"{task}.yaml").read_text(encoding="utf-8").startswith("#")


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "system: a", "system: a\nwordings: b", "system: a\nwordings: {any: []}", "a: [", "- 1"),
        *("system: {a: b}\nwordings: {any: [c]}", "system: a\nwordings: {any: [[c]]}", "system: 2001-99-99"),
    ],
)
def test_a_file_of_another_form_is_an_error_that_names_it(tmp_path, text):
    path = tmp_path / "dance.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"dance\.yaml: (not a prompt file|a language without wordings)"):
        load_wordings(path)
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_wordings(tmp_path / "none.yaml")


def test_wordings_are_chosen_by_any_number_and_the_answer_only_where_it_is_learned():
    lines = ASR.wordings.by_language["any"]
    said = [ASR.instruction(Item("The dog!"), wording).text for wording in (0, 1, len(lines), 2**31 - 1)]
    assert said == [lines[0], lines[1], lines[0], lines[(2**31 - 1) % len(lines)]]
    assert ASR.instruction(Item("The dog!")).answer is None
    assert ASR.instruction(Item("The dog!"), learn=True).answer == "the dog"


def test_a_share_of_asr_is_mixed_into_a_task():
    kinds = drawn("sqa", 0.5)
    assert set(kinds) == {"asr", "sqa"}
    assert 0.4 < kinds.count("asr") / len(kinds) < 0.6
    assert set(drawn("st")) == {"st"}
    assert set(drawn("asr")) == {"asr"}


def test_answers_are_normalised_as_the_mixture_says():
    rng, example = np.random.default_rng(0), fields_of("It's late.")
    answers = [mixture("st", 0.0, name).draw(example, rng).answer for name in ("mms-1", "mms-2")]
    assert answers == ["it s late", "it's late"]


def test_rates_are_kept():
    kinds = drawn("asr=1,sqa=3", count=2000)
    assert kinds.count("sqa") / len(kinds) == pytest.approx(0.75, abs=0.04)
    kinds = drawn("st=0.2,asr=0.2,sqa=0.2", count=2000)
    assert all(kinds.count(task) / len(kinds) == pytest.approx(1 / 3, abs=0.04) for task in TASKS)


def test_mix_is_every_task_at_the_same_rate_among_those_there_are():
    assert set(drawn("mix")) == {"asr", "st", "sqa"}
    assert set(drawn("mix", example=fields_of(FULL.text))) == {"asr"}
    two = drawn("mix", example=fields_of(FULL.text, FULL.question, FULL.answer), count=1000)
    assert two.count("sqa") / len(two) == pytest.approx(0.5, abs=0.05)


def test_an_utterance_without_an_answer_for_the_task_is_asr():
    assert set(drawn("sqa", example=fields_of(FULL.text))) == {"asr"}


def test_what_a_recogniser_wrote_is_learned_as_a_transcript_only_if_nothing_else_is_asked():
    example = replace(FULL, corpus=next(spoken_squad_questions()).corpus)
    assert set(drawn("asr=9,sqa=1", example=example)) == {"sqa"}
    assert set(drawn("sqa", 0.5, example=example)) == {"sqa"}
    assert set(drawn("mix", example=example)) == {"sqa", "st"}
    assert set(drawn("asr", example=example)) == {"asr"}


def spoken_squad_questions() -> Iterator[Utterance]:
    """What the importer makes of a question."""
    asked = {"id": "q", "question": "Who?", "answers": [{"text": "a"}]}
    paragraph = {"context": "what was heard", "qas": [asked]}
    yield from spoken_squad._questions(paragraph, "train", [Path("0_0_0.wav")], "here")


def test_wordings_and_languages_vary_in_training():
    rng = np.random.default_rng(0)
    assert len({mixture("asr").draw(FULL, rng).text for _ in range(50)}) > 1
    assert {mixture("st").draw(FULL, rng).answer for _ in range(50)} == set(FULL.translation.values())


def test_same_draws_same_instructions():
    one, two, tasks = np.random.default_rng(4), np.random.default_rng(4), mixture("mix")
    assert [tasks.draw(FULL, one) for _ in range(20)] == [tasks.draw(FULL, two) for _ in range(20)]


@pytest.mark.parametrize(
    "text",
    ["dance", "", "asr=", "asr=x", "asr=0", "asr=-1", "asr=nan", "asr=inf", "asr=1,asr=1", "asr=1,dance=1", "asr,"],
)
def test_what_is_no_mixture_is_refused(text):
    with pytest.raises(ConfigError, match=r"tuning\.task .*: use asr, st, sqa, mix, a task.s YAML file, or rates"):
        mixture(text)


@pytest.mark.parametrize("text", ["asr=1,asr=1", "asr=1,dance=1", "asr=1;sqa=1", "asr=1, sqa=1"])
def test_rates_name_each_task_once(text):
    with pytest.raises(ConfigError, match=r"tuning\.task"):
        mixture(text)


def test_a_share_beside_rates_is_refused():
    with pytest.raises(ConfigError, match=r"tuning\.asr_share 0\.5: goes with one task"):
        mixture("asr=0.5,sqa=0.5", 0.5)


OWN = """
st:
  system: You translate.
  wordings:
    xx: ["Say it in X."]
"""


def test_own_prompts_replace_a_tasks_shipped_ones(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(OWN, encoding="utf-8")
    tasks = mixture("st", languages=["xx"], prompts=str(path))
    fields = fields_of("a", translation={"xx": "b", "de": "c"})
    drawn = tasks.draw(fields, np.random.default_rng(0))
    assert (drawn.system, drawn.text, drawn.answer) == ("You translate.", "Say it in X.", "b")
    assert tasks.prompts_sha256()["st"] != mixture("st").prompts_sha256()["st"]
    assert tasks.draw(fields_of("a"), np.random.default_rng(0)).system == ASR.wordings.system


def test_examples_of_own_prompts_are_shown_and_count_in_the_fingerprint(tmp_path):
    plain, shown = tmp_path / "plain.yaml", tmp_path / "shown.yaml"
    plain.write_text(OWN, encoding="utf-8")
    shown.write_text(OWN + "  examples: [{text: good day, answer: god dag}]\n", encoding="utf-8")
    fields = fields_of("a", translation={"xx": "b"})
    tasks = mixture("st", languages=["xx"], prompts=str(shown))
    assert tasks.draw(fields, np.random.default_rng(0)).examples == (("good day", "god dag"),)
    assert tasks.prompts_sha256()["st"] != mixture("st", prompts=str(plain)).prompts_sha256()["st"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("st: {system: a, wordings: {any: [b]}, examples: [c]}", "not prompts by task"),
        ("st: {system: a, wordings: {any: [b]}, examples: [{text: c}]}", "not prompts by task"),
        ("dance: {system: a, wordings: {any: [b]}}", "unknown task 'dance'; use asr, st, sqa"),
        ("st: {system: a}", "not prompts by task"),
        ("[]", "not prompts by task"),
        ("st: {system: a, wordings: {de: []}}", "a language without wordings"),
    ],
)
def test_prompts_of_another_form_are_named(tmp_path, text, words):
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"own\.yaml: {words}"):
        mixture("st", prompts=str(path))
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        mixture("st", prompts=str(tmp_path / "none.yaml"))


def test_a_question_that_no_wording_asks_is_refused(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text('sqa: {system: a, wordings: {any: ["{question}", "Answer it:"]}}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"sqa: 'Answer it:' has no \{question\}"):
        mixture("sqa", prompts=str(path))


def test_a_runs_own_wordings_are_used_for_the_tasks_it_was_trained_on(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(OWN.replace("wordings:", "examples: [{text: a, answer: b}]\n  wordings:"), encoding="utf-8")
    tasks = mixture("st", languages=["xx"], prompts=str(path))
    made = json.loads(json.dumps({"tasks": tasks.recorded()}))
    again = TASKS["st"].as_trained(made)
    assert again.instruction(Item(language="xx")) == tasks.rates[-1][0].instruction(Item(language="xx"))
    assert again.wordings == tasks.rates[-1][0].wordings and again.wordings.examples == (("a", "b"),)
    assert TASKS["sqa"].as_trained(made) is TASKS["sqa"] and ASR.as_trained({}) is ASR
    chosen = TASKS["st"].with_choices(load_wordings(PROMPT_FOLDER / "st.yaml"), [])
    assert chosen.as_trained(made) is chosen  # wordings that were asked for stay
    with pytest.raises(ConfigError, match=r"trained_for\.tasks\.st: no wordings"):
        TASKS["st"].as_trained({"tasks": {"st": {"system": "a"}}})


def test_every_language_to_train_needs_a_prompt():
    mixture("st").require_prompts({"de", "fr"})
    mixture("asr").require_prompts({"xx"})
    mixture("st", languages=["de"]).require_prompts({"de", "xx"})
    with pytest.raises(
        ConfigError, match=r"no st prompt for xx, yy \(there are: en, .*\); choose with tuning.languages"
    ):
        mixture("st=1,asr=1").require_prompts({"de", "yy", "xx"})
    with pytest.raises(ConfigError, match=r"tuning\.languages fr: no utterance has such a translation \(de\)"):
        mixture("st", languages=["de", "fr"]).require_prompts({"de"})


def test_wordings_held_out_are_not_drawn_and_leave_the_fingerprint_alone(tmp_path):
    text = "system: s\nwordings: {any: ['a {question}']}\n"
    (tmp_path / "one.yaml").write_text(text)
    (tmp_path / "two.yaml").write_text(text + "held_out: {any: ['b {question}', 'c {question}']}\n")
    one, two = (load_wordings(tmp_path / f"{name}.yaml") for name in ("one", "two"))
    assert one.sha256() == two.sha256()
    item = Item(values={"question": "who?"})
    asked = TASKS["sqa"].with_choices(two, ())
    assert [each.text for each in asked.unseen_instructions(item)] == ["b who?", "c who?"]
    assert {asked.instruction(item, wording).text for wording in range(5)} == {"a who?"}
    assert TASKS["sqa"].with_choices(one, ()).unseen_instructions(item) == []


@pytest.mark.parametrize("task", TASKS)
def test_each_language_has_a_wording_held_out_that_is_not_trained(task):
    wordings = TASKS[task].wordings
    for language, lines in wordings.by_language.items():
        kept = wordings.held_out_lines(language)
        assert kept and not set(kept) & set(lines)
        assert all(("{question}" in line) == (task == "sqa") for line in kept)


def test_a_wording_held_out_needs_the_placeholders_too(tmp_path):
    (tmp_path / "one.yaml").write_text("system: s\nwordings: {any: ['a {question}']}\nheld_out: {any: [b]}\n")
    with pytest.raises(ConfigError, match=r"has no \{question\}"):
        TASKS["sqa"].with_choices(load_wordings(tmp_path / "one.yaml"), ())
