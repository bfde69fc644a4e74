"""Speech translation as a task."""

from __future__ import annotations

import pytest

from sm_store.errors import ConfigError
from speechmapper.tasks import TASKS, Item
from tests.speechmapper.tiny import fields_of

ST = TASKS["st"]


def test_one_item_per_language_none_without_translations():
    both = fields_of("a", translation={"fr": "le chien", "de": "der Hund"})
    assert ST.items(both) == [Item("der Hund", "de"), Item("le chien", "fr")]
    assert ST.items(fields_of("a")) == []
    assert ST.with_choices(None, ["fr", "it"]).items(both) == [Item("le chien", "fr")]


def test_it_asks_in_the_target_language():
    assert "Deutsche" in ST.instruction(Item(language="de")).text
    assert "français" in ST.instruction(Item(language="fr")).text
    with pytest.raises(ConfigError, match=r"no st prompt for 'xx'; prompts/st\.yaml has en, de"):
        ST.instruction(Item(language="xx"))


@pytest.mark.parametrize("name", ["zh-CN", "cmn_hans_cn", "Chinese"])
def test_a_language_is_known_under_its_names(name):
    assert ST.instruction(Item(language=name)) == ST.instruction(Item(language="zh"))
    line = {"reference": "这只狗。", "output": "这只狗。", "language": name}
    assert "tok:zh" in ST.score([line])["bleu_signature"]


def test_score_uses_the_tokenizer_of_the_language():
    line = {"reference": "这只狗睡了一整天觉。", "output": "这只狗睡了一整天觉。", "language": "zh"}
    found = ST.score([line, line])
    assert found["bleu"] == pytest.approx(100)
    assert found["chrf"] == pytest.approx(100)
    assert "tok:zh" in found["bleu_signature"]
    assert "tok:13a" in ST.score([{**line, "language": "de"}])["bleu_signature"]
    assert "tok:13a" in ST.score([line, {**line, "language": "de"}])["bleu_signature"]
