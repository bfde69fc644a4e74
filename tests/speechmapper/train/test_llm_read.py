"""An LLM that reads projectors after their training: the figures of stage 2's validation, and what is refused."""

from __future__ import annotations

import pytest
import torch

from sm_store.errors import ModelError
from speechmapper.heads import Head
from speechmapper.readout.build import llm_readout
from speechmapper.saved_projector import load_projector
from speechmapper.train.llm_read import load_reader, require_llm
from speechmapper.train.llm_validation import LlmValidation, asr_probe
from speechmapper.train.run_folder import open_accelerator
from speechmapper.train.validation import dev_set
from tests.speechmapper.tiny import data_of, make_world, save_llm, stage1_config


def test_the_rate_is_that_of_stage_2s_validation_and_leaves_the_runs_files_alone(world, stage1_run, tmp_path):
    config = stage1_config(run={"eval_utterances": 4, "examples": 2})
    data = data_of(world, config.data)
    reader = load_reader(str(world.llm_folder), data.targets, open_accelerator(config.run, tmp_path))
    before = (stage1_run / "examples.txt").read_bytes()
    rate = reader.wer(stage1_run, config.run, data)
    assert (stage1_run / "examples.txt").read_bytes() == before
    projector = load_projector(stage1_run)
    head = Head(projector.config, data.targets.table, 0, projector.device)
    dev = dev_set(tmp_path, data, config.run)
    validation = LlmValidation(dev, llm_readout(reader.llm, head), [asr_probe(dev)], data.spec.table_scale)
    with torch.no_grad():
        assert rate == validation.run(projector, 0).figures["wer"] > 0
    assert (tmp_path / "examples.txt").read_text().count("reference") == 2


def test_without_a_validation_split_there_is_no_rate(stage1_run, world, tmp_path):
    config = stage1_config(run={"eval_utterances": 4})
    whole = make_world(tmp_path / "world", utterances=6, splits=(None,))
    data = data_of(whole, config.data)
    reader = load_reader(str(world.llm_folder), data.targets, open_accelerator(config.run, tmp_path))
    assert reader.wer(stage1_run, config.run, data) is None


def test_an_llm_is_checked_by_its_table_alone(world, tmp_path):
    targets = data_of(world, stage1_config().data).targets
    require_llm(str(world.llm_folder), targets)
    with pytest.raises(ModelError, match=r"--llm .*other: its input embeddings are not those of target set tiny"):
        require_llm(str(save_llm(tmp_path / "other", seed=2)), targets)
    with pytest.raises(ModelError, match="--llm none: no such preset or folder"):
        require_llm("none", targets)
