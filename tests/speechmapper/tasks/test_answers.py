"""What a mixture can be trained on is counted as its draws would find it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from sm_store import Fields
from sm_store.catalog import SCHEMA
from sm_store.errors import ConfigError
from speechmapper.tasks import Mixture, StoreFields, mixture
from speechmapper.tasks.answers import require_answers
from tests.speechmapper.tasks.test_file import changed, write

SAID = Fields("The dog ran.", 1.0, lang="en")
ASKED = replace(SAID, question="Who ran?", answer="the dog")
UTTERANCES = (
    SAID,
    replace(SAID, text="Yes."),
    replace(SAID, translation={"fr": "Le chien courait."}),
    replace(SAID, translation={"fr": "Le chien courait.", "zh-CN": "狗跑了。"}),
    ASKED,
    replace(ASKED, corpus="spoken-squad"),
    replace(ASKED, corpus="spoken-squad", question=None),
    replace(ASKED, corpus="other"),
)


class Rows:
    """A store of which there is nothing but the columns of its catalog."""

    def columns(self, names: Sequence[str]) -> pa.Table:
        schema = pa.schema([each for each in SCHEMA if each.name in names])
        rows = [{name: getattr(each, name) for name in names} for each in UTTERANCES]
        halves = [pa.Table.from_pylist(half, schema) for half in (rows[:3], rows[3:])]
        return pa.concat_tables(halves)


FIELDS, EVERY = StoreFields(Rows()), np.arange(len(UTTERANCES))


def counted(tasks: Mixture) -> str:
    return require_answers(tasks, FIELDS, EVERY, "train")


@pytest.mark.parametrize("names", ["asr", "st", "sqa", "asr=1,sqa=1", "mix"])
@pytest.mark.parametrize("languages", [[], ["zh"], ["fr"]])
def test_columns_say_what_the_items_say(names, languages):
    for task, _ in mixture(names, languages=languages).rates:
        assert task.qualifying(FIELDS, EVERY).tolist() == [bool(task.items(each)) for each in UTTERANCES]


def test_a_language_that_an_utterance_lacks_is_no_answer():
    assert counted(mixture("st")).startswith("answers for: st 2 of 8 utterances; 6 without any")
    assert counted(mixture("st", languages=["zh"])).startswith("answers for: st 1 of 8 utterances; 7 without any")
    with pytest.raises(ConfigError, match=r"tuning\.task st: no utterance of train has translation in de"):
        counted(mixture("st", languages=["de"]))
    with pytest.raises(ConfigError, match=r"tuning\.languages de: no utterance has such a translation \(fr, zh-CN\)"):
        counted(mixture("st", languages=["zh", "de"]))


def test_the_texts_of_a_recogniser_count_as_transcripts_only_if_nothing_else_is_asked():
    assert counted(mixture("asr")) == "answers for: asr 8 of 8 utterances"
    assert counted(mixture("asr=1,sqa=1")) == (
        "answers for: asr 7, sqa 3 of 8 utterances; the texts of 1 are a recogniser's and not learned as transcripts"
    )


def test_what_a_match_leaves_out_is_counted(tmp_path):
    second = write(tmp_path, changed(match=r"^\w+ (\w+)", name="second-word"))
    assert counted(mixture(f"{second}=1,sqa=1")).startswith("answers for: second-word 6, sqa 3 of 8 utterances")
    with pytest.raises(ConfigError, match=r"no utterance of train has an answer with a match of '9'"):
        counted(mixture(write(tmp_path, changed(match="9"))))
    speakers = write(tmp_path, changed(answer="{speaker}", match=None))
    with pytest.raises(ConfigError, match="no utterance of train has speaker"):
        counted(mixture(speakers))


def test_a_draw_learns_what_is_counted():
    tasks, rng = mixture("asr=1,sqa=1"), np.random.default_rng(0)
    drawn = {tasks.draw(FIELDS[5], rng).answer for _ in range(40)}
    assert drawn == {"the dog"}
