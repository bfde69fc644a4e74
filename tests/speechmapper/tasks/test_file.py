"""Tasks of a user's own: what the file says is asked, matched and scored; whatever else it says is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from sm_store import Fields
from sm_store.errors import ConfigError
from speechmapper.tasks import FileTask, mixture, task_of
from speechmapper.tasks.file import read_task

FIRST_WORD = r"""
system: The user quotes a text. You answer with its first word.
wordings: {any: ["First word:", "Its first word:"]}
examples: [{text: the dog ran, answer: the}]
answer: "{text}"
match: '^\w+'
score: exact_match
"""
SAID = Fields("The dog ran.", 1.2, lang="en", translation={"de": "Der Hund lief.", "fr": "Le chien courait."})


def write(folder, text: str, name: str = "first-word.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def changed(**keys) -> str:
    definition = {**yaml.safe_load(FIRST_WORD), **keys}
    return yaml.safe_dump({key: value for key, value in definition.items() if value is not None})


def test_the_answer_is_the_match_and_the_prompt_has_the_examples(tmp_path):
    task = task_of(write(tmp_path, FIRST_WORD))
    (item,) = task.items(SAID)
    instruction = task.instruction(item, wording=1, learn=True)
    assert task.name == "first-word" and item.reference == instruction.answer == "The"
    assert instruction.text == "Its first word:" and instruction.examples == (("the dog ran", "the"),)
    assert task.items(Fields("?!", 1.0)) == []


def test_a_group_of_the_expression_is_what_counts(tmp_path):
    second = task_of(write(tmp_path, changed(match=r"^\w+ (\w+)")))
    assert [item.reference for item in second.items(SAID)] == ["dog"]
    assert second.items(Fields("Yes.", 1.0)) == []


def test_answers_and_wordings_have_fields_between_words(tmp_path):
    text = changed(answer='{speaker} said "{text}"', match=None, wordings={"any": ["Who of {corpus} says what?"]})
    task = task_of(write(tmp_path, text))
    assert set(task.needs) == {"speaker", "corpus"}
    assert task.items(Fields("Hi.", 1.0, speaker="Ann")) == []
    (item,) = task.items(Fields("Hi.", 1.0, speaker="Ann", corpus="demo"))
    assert item.reference == 'Ann said "Hi."' and task.instruction(item).text == "Who of demo says what?"


def test_a_translation_is_one_item_per_language(tmp_path):
    wordings = {"de": ["Auf Deutsch:"], "fr": ["En français :"]}
    path = write(tmp_path, changed(answer="{translation}", match=None, wordings=wordings, score="bleu"))
    assert [(item.language, item.reference) for item in task_of(path).items(SAID)] == [
        ("de", "Der Hund lief."),
        ("fr", "Le chien courait."),
    ]
    chosen = mixture(path, languages=["fr"]).rates[-1][0]
    assert [item.language for item in chosen.items(SAID)] == ["fr"]


def test_the_tasks_of_the_zero_shot_study_are_what_their_examples_say():
    folder = Path(__file__).parents[3] / "jobs" / "zero-shot"
    tasks = [read_task(path) for path in sorted(folder.glob("*.yaml"))]
    assert [task.name for task in tasks] == ["colour", "first-word", "he-said"]
    for task in tasks:
        shown = task.wordings.examples
        assert len(shown) == 3
        assert all(task.items(Fields(text, 1.0))[0].reference == answer for text, answer in shown)


@pytest.mark.parametrize(
    ("score", "figure", "value"), [("exact_match", "exact_match", 0.5), ("wer", "wer", 0.5), ("bleu", "utterances", 2)]
)
def test_scores(tmp_path, score, figure, value):
    task = task_of(write(tmp_path, changed(score=score)))
    lines = [{"reference": "dog", "output": "Dog."}, {"reference": "cat", "output": "bird"}]
    assert task.score(lines)[figure] == pytest.approx(value)


def test_a_mixture_takes_files_and_its_identity_their_contents(tmp_path):
    path = write(tmp_path, FIRST_WORD)
    tasks = mixture(f"asr=0.5,{path}=0.5")
    drawn = [tasks.draw(SAID, np.random.default_rng(seed)).answer for seed in range(40)]
    assert {"The", "the dog ran"} == set(drawn)
    before = tasks.prompts_sha256()["first-word"]
    write(tmp_path, changed(match=r"\w+$"))
    assert mixture(path).prompts_sha256()["first-word"] != before


def test_the_definition_alone_makes_the_same_task(tmp_path):
    task = read_task(tmp_path / write(tmp_path, FIRST_WORD))
    again = FileTask(task.definition, "about.json")
    assert again.fingerprint() == task.fingerprint() and again.items(SAID) == task.items(SAID)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"score": "beauty"}, "score 'beauty': use exact_match, wer, bleu"),
        ({"answer": None}, "'answer' is missing"),
        ({"answer": "first"}, "name a field of the manifest"),
        ({"answer": "{txt}"}, r"\{txt\}: no field of a manifest; there are text"),
        ({"wordings": {"any": ["{questoin}?"]}}, r"\{questoin\}: no field of a manifest"),
        ({"wordings": {"any": ["Who? {"]}}, "Who"),
        ({"wordings": {"any": ["{translation}"]}}, "it can only be the answer"),
        ({"held_out": {"any": ["{questoin}?"]}}, r"\{questoin\}: no field of a manifest"),
        ({"wordings": {}}, "no wordings"),
        ({"match": "("}, "not a task"),
        ({"naem": "x"}, "unknown key 'naem'"),
        ({"name": "asr"}, "'asr' is a task of ours"),
        ({"name": "a/b"}, "use letters"),
    ],
)
def test_what_is_no_task_is_named_with_its_file(tmp_path, keys, words):
    path = write(tmp_path, changed(**keys), "mine.yaml")
    with pytest.raises(ConfigError, match=rf"mine\.yaml: .*{words}"):
        mixture(path)


@pytest.mark.parametrize("text", ["", "[]", "a: [", "- 1", "answer: 2001-99-99", "match: 2001-01-01"])
def test_another_file_is_no_task(tmp_path, text):
    with pytest.raises(ConfigError, match=r"mine\.yaml: "):
        mixture(write(tmp_path, text, "mine.yaml"))
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        mixture(str(tmp_path / "none.yaml"))
