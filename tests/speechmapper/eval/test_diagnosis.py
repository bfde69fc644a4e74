"""What goes wrong, by task: from predictions to figures."""

from __future__ import annotations

import numpy as np
import pytest

from sm_store.errors import ConfigError
from speechmapper.eval.diagnosis import EntitySource, diagnose, trained_words
from speechmapper.tasks import TASKS
from speechmapper.tasks.file import FileTask

GERMAN, ENGLISH = "Der Hund schlief die ganze Nacht am Fluss.", "The dog slept by the river all night."


def figures(task, lines, entities=None):
    measures = diagnose(task, lines, entities or EntitySource())
    return {name: value for each in measures for name, value in each.figures(np.arange(len(lines))).items()}


def line(reference: str, output: str, **more: object) -> dict[str, object]:
    return {"reference": reference, "output": output, **more}


def test_asr_is_to_repeat_in_the_language_of_the_speech_with_nothing_around():
    outputs = [GERMAN, "Der Hund schläft jede Nacht am Fluss.", ENGLISH, "", f"Die Transkription ist: {GERMAN}"]
    found = figures(TASKS["asr"], [line(GERMAN, output, lang="de") for output in outputs])
    assert found["instruction_following_rate"] == 2 / 5
    assert (found["target_language_rate"], found["english_rate"]) == (3 / 5, 1 / 5)
    assert found["refusal_rate"] == found["language_detector_error"] == 0


def test_st_is_to_translate_and_not_to_copy():
    more = {"language": "de", "lang": "en", "source": ENGLISH}
    outputs = [GERMAN, ENGLISH, "Lo siento, no puedo traducir eso."]
    found = figures(TASKS["st"], [line(GERMAN, output, **more) for output in outputs])
    assert found["instruction_following_rate"] == pytest.approx(1 / 3)
    assert found["refusal_rate"] == pytest.approx(1 / 3)
    name = line("Anna Berg", "Anna Berg", source="Anna Berg")
    assert figures(TASKS["st"], [name])["instruction_following_rate"] == 1


def test_sqa_is_to_answer_briefly_and_not_to_transcribe():
    said = "the dog slept by the river"
    outputs = ["the dog", "the cat", said, " ".join(["word"] * 11)]
    found = figures(TASKS["sqa"], [line("the dog", output, source=said, lang="en") for output in outputs])
    assert found["instruction_following_rate"] == 0.5
    assert "target_language_rate" not in found  # nothing says the answer's language


def test_a_file_task_wants_its_match_and_nothing_else():
    definition = {"name": "n", "system": "s", "wordings": {"any": ["w"]}, "answer": "{text}", "score": "exact_match"}
    lines = [line("the", "The."), line("the", "The first word is: the")]
    assert figures(FileTask({**definition, "match": r"^\w+"}, "n"), lines)["instruction_following_rate"] == 0.5
    assert figures(FileTask(definition, "n"), lines)["instruction_following_rate"] == 1


def test_nothing_is_said_of_what_the_lines_do_not_tell():
    found = figures(TASKS["asr"], [line("a dog", "a dog")])
    assert found.keys() == {
        "repetition_rate",
        "compression_rate",
        "length_ratio",
        "refusal_rate",
        "instruction_following_rate",
    }
    assert figures(TASKS["asr"], [line("a", "a", stop="length")])["stopped_by_length_rate"] == 1


def test_entities_of_the_lines_of_a_file_or_guessed(tmp_path):
    lines = [line("He met Anna.", "he met hannah"), line("Oslo is cold.", "oslo is cold")]
    found = figures(TASKS["asr"], lines)
    assert (found["entity_recall"], found["entity_source"]) == (0, "capitalised words")
    own = [{**lines[0], "entities": ["Anna"]}, {**lines[1], "entities": ["Oslo", "..."]}]
    found = figures(TASKS["asr"], own)
    assert (found["entity_recall"], found["entity_wer"], found["entity_source"]) == (0.5, 0.5, "manifest")
    path = tmp_path / "tagged.iob"
    path.write_text("Oslo\tB-GPE\nis\tO\ncold\tO\n.\tO\n", encoding="utf-8")
    found = figures(TASKS["asr"], lines, EntitySource(path))
    assert (found["entity_recall"], found["entity_source"], found["entity_mentions"]) == (1, "tagged.iob", 1)
    with pytest.raises(ConfigError, match="none of its 1 sentences"):
        figures(TASKS["asr"], lines[:1], EntitySource(path))


def test_words_are_counted_in_the_transcripts_of_training(world):
    texts = [world.store[index].text for index in world.store.select(split="train").tolist()]
    from sm_pipeline.text import normalise

    words = [word for text in texts for word in normalise(text).split()]
    counts = trained_words(str(world.path), "mms-2", {words[0], "zzz"})
    assert counts == {words[0]: words.count(words[0]), "zzz": 0}
    lines = [line(f"he {words[0]} zzz", "he", entities=[words[0], "zzz"])]
    found = figures(TASKS["asr"], lines, EntitySource(train_store=str(world.path)))
    assert found["entities"]["0"] == {"words": 1, "recall": 0.0}
