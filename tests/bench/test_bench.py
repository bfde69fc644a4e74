"""The benchmarks run, at tiny sizes: a benchmark that broke would be noticed when its figures are wanted."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from rich.console import Console

from sm_store import Store
from tests.bench import decoding, encoding, opening, reading, report, rescoring, scoring, startup, training, tuning
from tests.speechmapper.tiny import save_llm


def test_all_readers_read_the_same_amount(tmp_path):
    batches = np.random.default_rng(0).permutation(64).reshape(-1, reading.BATCH)
    reading.build(tmp_path / "zarr", 64)
    reading.build(tmp_path / "zstd", 64, compression="zstd:1")
    expected = reading.read_preadv(tmp_path / "zarr", batches)
    longest = reading.lengths(64)[batches].max(axis=1)
    assert expected == int(longest.sum()) * reading.BATCH * reading.WIDTH * 2
    for policy in ("always", "never"):
        assert reading.read_store(tmp_path / "zarr", batches, policy) == expected
    assert reading.read_store(tmp_path / "zstd", batches, "always") == expected
    assert reading.read_zarr(tmp_path / "zarr", batches) == expected
    rates = reading.warm({"store": lambda: reading.read_store(tmp_path / "zarr", batches, "always")})
    assert rates["store"] > 0
    assert reading.cold(lambda: reading.read_store(tmp_path / "zarr", batches, "always"), tmp_path) > 0


def test_the_synthetic_catalog_is_a_store(tmp_path):
    opening.build(tmp_path / "s", 1500)
    store = Store.open(tmp_path / "s")
    assert len(store) == 1500 and len(store.parts) == 3
    assert len(store.select(split="dev")) == opening.SHARD_UTTERANCES


def test_both_ways_of_extraction_keep_the_same_features(tmp_path):
    checkpoint = encoding.write_checkpoint(tmp_path / "encoder", 1, width=64)
    manifest = encoding.write_corpus(tmp_path / "corpus", 3)
    assert encoding.plain_extract(manifest, checkpoint, tmp_path / "plain", "cpu", torch.float32) > 0
    assert encoding.our_extract(manifest, checkpoint, tmp_path / "s", "cpu")["written"] == 3
    for record in Store.open(tmp_path / "s"):
        plain = np.load(tmp_path / "plain" / f"{record.id}.npy")
        np.testing.assert_allclose(record.features.astype(np.float32), plain.astype(np.float32), atol=5e-3)


def test_the_encoders_have_the_same_bits(tmp_path):
    checkpoint = encoding.write_checkpoint(tmp_path / "encoder", 1, width=64)
    assert encoding.encoder(checkpoint, "cpu", torch.float32, 2.0)[2]


@pytest.mark.filterwarnings("ignore")  # webdataset leaves its files to the garbage collector
def test_training_is_timed_from_store_memory_and_tars(tmp_path, capfd):
    options = training.Options(size="tiny", frames=400, steps=2, utterances=20, link=0.5)
    speeds, sweep = training.measure(tmp_path, options)
    assert (speeds.row_count, sweep.row_count) == (3, 2)
    assert "of the store" in capfd.readouterr().err


def test_both_ways_of_decoding_give_the_same_texts(tmp_path):
    options = decoding.Options(str(save_llm(tmp_path)), texts=6, batch=4, limit=12)
    table = decoding.measure(options)
    assert list(table.columns[0].cells) == ["by hand", "generate"]
    assert list(table.columns[-1].cells) == ["0", "0"]


def test_flop_of_the_papers_projector():
    """12.6 GFLOP a second of audio, forward and backward (derived from the paper's sizes)."""
    from torch.utils.flop_counter import FlopCounterMode

    from speechmapper.projector import Projector, ProjectorConfig

    with torch.device("meta"):
        projector = Projector(ProjectorConfig())
        features, frames = torch.empty(1, 400, 1024), torch.full((1,), 400)
    projector.eval()
    with FlopCounterMode(display=False) as counter:
        projector(features, frames)[0].sum().backward()
    assert counter.get_total_flops() / 16 / 1e9 == pytest.approx(12.6, rel=0.1)


def test_a_manifest_is_read_and_planned(tmp_path):
    found = startup.measure(tmp_path, 2000)
    assert found["units"] == 4 and found["read"] > found["plan"] >= 0 and found["peak_bytes"] > 0


def test_scores_against_a_vocabulary_are_timed_and_counted(capsys):
    Console(width=150).print(scoring.measure(scoring.Options(64, 1000, 50, 90, rounds=1)))
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [row[1].strip() for row in rows] == ["mse+cosine", "ctc-embedding 50", "ctc-embedding all"]
    ratios = [float(row[5]) for row in rows]
    assert ratios[0] == 1 < ratios[1] < ratios[2]


def test_the_ways_of_cross_entropy_give_one_loss_from_ever_less_memory(tmp_path):
    found = tuning.costs(tuning.Options(str(save_llm(tmp_path)), batch=4, rounds=1))
    assert list(found) == ["labels=", "answer_loss", "checkpointing"]
    memory = [cost.memory for cost in found.values()]
    assert memory == sorted(memory, reverse=True) and 0 < memory[2] < memory[1] < memory[0]
    losses = [cost.loss for cost in found.values()]
    assert losses[1] == losses[2] == pytest.approx(losses[0], rel=1e-5)
    assert all(cost.seconds > 0 for cost in found.values())


def test_reports_are_timed(tmp_path):
    figures = report.measure(tmp_path, runs=2, predictions=30)
    assert figures["recordings"] == 10 and figures["bytes"] > 50_000 and figures["seconds"] > 0


def test_adapters_are_measured_beside_them_where_that_is_asked(tmp_path):
    found = tuning.costs(tuning.Options(str(save_llm(tmp_path)), batch=4, rounds=1, lora=2))
    assert list(found) == ["labels=", "answer_loss", "checkpointing", "lora", "both"]
    assert len({cost.loss for name, cost in found.items() if name != "labels="}) == 1  # a new adapter changes nothing
    assert found["answer_loss"].memory < found["lora"].memory > found["both"].memory


def test_rescoring(tmp_path):
    table = rescoring.measure(tmp_path, 60)
    assert list(table.columns[0].cells) == ["60"]
    metrics = json.loads((tmp_path / "rescoring" / "metrics.json").read_text(encoding="utf-8"))
    assert 0 < metrics["wer"] < 0.3 and metrics["target_language_rate"] > 0.9
    assert metrics["by"].keys() == {"speaker", "lang", "corpus"}
