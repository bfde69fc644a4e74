"""One readout for validation, evaluation and the model: by nearest token or by an LLM."""

from __future__ import annotations

import pytest
import torch

from sm_pipeline.models.source import resolve_model
from sm_store.errors import ConfigError, ModelError
from speechmapper.llm_loading import load_llm
from speechmapper.projector import Projected, Projector, ProjectorConfig
from speechmapper.readout.beam import BeamSearch
from speechmapper.readout.build import (
    GENERATED,
    NEAREST,
    SEARCHED,
    _require_trained_table,
    build_readout,
    llm_readout,
)
from speechmapper.readout.hotwords import Hotwords
from speechmapper.saved_projector import load_projector
from speechmapper.tasks import ASR, TASKS, Item
from tests.speechmapper.tiny import save_llm

CPU = torch.device("cpu")
ASKED = ASR.instruction(Item())


@pytest.fixture
def projector(stage1_run):
    return load_projector(stage1_run)


@pytest.fixture
def vectors(world):
    """The true embeddings of two texts, each followed by a pad."""
    targets = world.store.targets("tiny")
    rows = [torch.from_numpy(targets.table)[[*ids, 0]] for ids in ([11, 13, 14], [12, 15])]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return Projected(padded, torch.tensor([4, 3]), hidden_BTC=padded)


def test_table_and_tokenizer_from_the_store_or_the_llms_files_say_the_same(world, projector, vectors):
    of_store = build_readout(projector, None, world.store.targets("tiny"))
    of_files = build_readout(projector, None, None)
    assert of_store.name == of_files.name == NEAREST
    assert of_store.read(vectors, [ASKED] * 2) == of_files.read(vectors, [ASKED] * 2) == ["the old dog", "a bird"]
    assert of_store.shown(ASKED) is None


def test_an_llm_answers_each_rows_own_instruction(world, projector, vectors):
    readout = build_readout(projector, str(world.llm_folder), world.store.targets("tiny"), max_new_tokens=6)
    llm = load_llm(resolve_model(str(world.llm_folder), "llm"), CPU)
    asked = [ASKED, TASKS["sqa"].instruction(Item(values={"question": "the house"}))]
    prompts = [llm.prompter.write(instruction) for instruction in asked]
    assert readout.name == GENERATED
    expected = llm.generate(vectors.vectors_BUE, vectors.vectors_B, prompts, 6)
    assert readout.read(vectors, asked) == expected == llm_readout(llm, readout.head, 6).read(vectors, asked)
    assert readout.shown(ASKED) == llm.prompter.shown(prompts[0])


def test_another_llm_than_the_target_sets_is_refused(world, projector, tmp_path):
    with pytest.raises(ModelError, match="target set tiny"):
        build_readout(projector, str(save_llm(tmp_path / "other", seed=5)), world.store.targets("tiny"))


def test_without_an_llm_speech_is_only_transcribed(world, projector):
    build_readout(projector, None, None).require_task(ASR)
    with pytest.raises(ConfigError, match="st needs an LLM"):
        build_readout(projector, None, None).require_task(TASKS["st"])
    build_readout(projector, str(world.llm_folder), None).require_task(TASKS["st"])


def test_without_a_store_the_llm_is_compared_with_what_the_projector_was_trained_for(world, projector, tmp_path):
    build_readout(projector, str(world.llm_folder), None)
    with pytest.raises(ModelError, match=r"not those this projector was trained for .*; name that LLM"):
        build_readout(projector, str(save_llm(tmp_path / "other", seed=5)), None)


def test_the_same_llm_in_a_narrower_dtype_is_the_same(world, projector):
    llm = load_llm(resolve_model(str(world.llm_folder), "llm"), CPU, "bfloat16")
    trained = projector.config.trained_for["target"]
    assert llm.table_sha256(trained["vocabulary"]) != trained["table_sha256"]
    _require_trained_table(projector, llm, str(world.llm_folder))


@pytest.fixture
def ctc_projector(projector):
    config = projector.config.to_dict() | {"readout": "ctc", "head": "rows", "ctc_temperature": 1.0}
    return Projector(ProjectorConfig.from_dict(config)).eval()


@pytest.fixture
def between(world):
    """CTC vectors of "the", a blank, and one a little nearer to "old" than to "dog"."""
    table = torch.from_numpy(world.store.targets("tiny").table)
    the, old, dog = table[11], table[13], table[14]
    blank = 3 + torch.zeros(len(the))
    vectors = torch.stack([the, blank, 0.51 * old + 0.49 * dog])[None]
    return Projected(vectors, torch.tensor([3]), vectors, blank_E=blank)


def test_hotwords_decide_what_is_nearly_as_probable(world, ctc_projector, between):
    def read(search):
        readout = build_readout(ctc_projector, None, world.store.targets("tiny"), search=search)
        return readout.name, readout.read(between, [ASKED])

    assert read(None) == (NEAREST, ["the old"])
    assert read(BeamSearch(4)) == (SEARCHED, ["the old"])
    assert read(BeamSearch(4, Hotwords(["Dog!"]))) == (SEARCHED, ["the dog"])
    with pytest.raises(ConfigError, match="st needs an LLM"):
        build_readout(ctc_projector, None, None, search=BeamSearch(4)).require_task(TASKS["st"])


def test_where_there_is_nothing_to_search_it_says_so(projector, ctc_projector):
    with pytest.raises(ConfigError, match="ctc-embedding, and this one is read by nearest; leave them out"):
        build_readout(projector, None, None, search=BeamSearch(4))
    with pytest.raises(ConfigError, match=r"here the LLM \(some\) writes the text"):
        build_readout(ctc_projector, "some", None, search=BeamSearch(4))
    with pytest.raises(ConfigError, match="no words there"):
        build_readout(ctc_projector, None, None, search=BeamSearch(4, Hotwords([])))
