"""A sharded LLM: losses, gradients and answers of the whole one, from half of its layers' weights in each process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn

from sm_pipeline.models.source import resolve_model
from sm_store.errors import ConfigError
from speechmapper import llm_sharding
from speechmapper.config import LlmConfig, LoraConfig
from speechmapper.llm import FrozenLLM
from speechmapper.llm_loading import load_llm
from speechmapper.llm_sharding import is_sharded, shard_layers
from speechmapper.lora import LoraAdapter
from tests.speechmapper.test_llm import as_vectors, asr_prompts
from tests.speechmapper.tiny import llama, save_llm

CPU = torch.device("cpu")
WORLD = 2
CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # of numbers of about 1; on a CPU they are equal to the bit


def in_processes(work: Callable[..., dict[str, Any]], folder: Path, *arguments: Any) -> list[dict[str, Any]]:
    """What `work(rank, *arguments)` returns in each of two processes of one group."""
    spawn(_work, (work, folder, arguments), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


def _work(rank: int, work: Callable[..., dict[str, Any]], folder: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=WORLD)
    torch.save(work(rank, *arguments), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def loaded(folder: Path, **settings: Any) -> FrozenLLM:
    return load_llm(resolve_model(str(folder), "llm"), CPU, config=LlmConfig(**settings))


def local_weights(llm: FrozenLLM) -> list[int]:
    """Weights in memory here: of the layers, and of the rest."""
    layers = {weight for layer in llm.model.model.layers for weight in layer.parameters()}
    sizes = [0, 0]
    for weight in llm.model.parameters():
        here = weight.to_local() if isinstance(weight, distributed.tensor.DTensor) else weight
        sizes[weight not in layers] += here.numel()
    return sizes


def gradients(llm: FrozenLLM, rows: list[int]) -> dict[str, torch.Tensor]:
    """The loss of some texts, and its gradient of their vectors."""
    vectors_BUE, lengths_B = as_vectors(llm)
    vectors_BUE = vectors_BUE.detach().nan_to_num()[rows].requires_grad_()
    loss = llm.answer_loss(vectors_BUE, lengths_B[rows], [asr_prompts(llm)[row] for row in rows])
    loss.backward()
    return {"loss": loss.detach(), "vectors": vectors_BUE.grad}


def answers(llm: FrozenLLM, rows: list[int], limit: int) -> list[str]:
    vectors_BUE, lengths_B = as_vectors(llm)
    prompts = [asr_prompts(llm, answers=False)[row] for row in rows]
    return llm.generate(vectors_BUE.detach()[rows], lengths_B[rows], prompts, max_new_tokens=limit)


def share(rank: int) -> tuple[list[int], int]:
    """Texts and the length of answers: each process has its own."""
    return ([0, 1], 12) if rank else ([2, 3, 0], 4)


def sharded_work(rank: int, folder: Path, checkpointing: bool) -> dict[str, Any]:
    llm = loaded(folder, shard=True, checkpointing=checkpointing)
    rows, limit = share(rank)
    texts = [answers(llm, rows, limit)]  # weights that are gathered for it first serve training later
    found = [gradients(llm, rows), gradients(llm, rows)]
    texts.append(answers(llm, rows, limit))
    assert is_sharded(llm.model) and not any(weight.requires_grad for weight in llm.model.parameters())
    return {"found": found, "texts": texts, "weights": local_weights(llm), "flop": llm.take_flop()}


def loaded_whole(folder: Path) -> FrozenLLM:
    """It keeps no start either: sums of other lengths are rounded otherwise."""
    llm = loaded(folder)
    llm._can_share_start = False
    return llm


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_llm(tmp_path_factory.mktemp("llm"))


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointed"])
def test_each_process_has_the_numbers_of_the_whole_llm_and_half_of_its_layers(folder, tmp_path, checkpointing):
    whole = loaded_whole(folder)
    layers, rest = local_weights(whole)
    for rank, here in enumerate(in_processes(sharded_work, tmp_path, folder, checkpointing)):
        rows, limit = share(rank)
        expected = gradients(whole, rows)
        for found in here["found"]:
            torch.testing.assert_close(found, expected, **CLOSE)
        assert here["texts"] == [answers(whole, rows, limit)] * 2
        assert here["weights"] == [layers // 2, rest]
        assert here["flop"] > 0


def adapter_work(rank: int, folder: Path) -> dict[str, Any]:
    llm = loaded(folder, shard=True, checkpointing=True)
    return adapted_gradients(llm, share(rank)[0])


def adapted_gradients(llm: FrozenLLM, rows: list[int]) -> dict[str, Any]:
    adapter = LoraAdapter(llm, LoraConfig(rank=4), seed=1)
    with torch.no_grad():
        for number, weight in enumerate(adapter.weights.values()):
            weight.copy_(torch.linspace(-0.2, 0.3, weight.numel()).roll(number).view_as(weight))
    adapter.use(training=True)
    found = gradients(llm, rows)
    return {**found, **{name: weight.grad for name, weight in adapter.weights.items()}}


def test_adapters_in_a_sharded_llm_are_whole_and_have_the_gradients_of_the_whole_llm(folder, tmp_path):
    for rank, found in enumerate(in_processes(adapter_work, tmp_path, folder)):
        expected = adapted_gradients(loaded_whole(folder), share(rank)[0])
        assert found.keys() == expected.keys() and len(found) == 30
        for name in expected:
            size = max(1.0, float(expected[name].abs().max()))
            torch.testing.assert_close(found[name] / size, expected[name] / size, **CLOSE)


def test_one_process_has_nothing_to_divide(folder):
    with pytest.raises(ConfigError, match=r"llm\.shard: there is one process, .* --processes N"):
        loaded(folder, shard=True)
    assert not is_sharded(llama())


def test_what_cannot_be_divided_is_refused(monkeypatch):
    monkeypatch.setattr(llm_sharding, "require_processes", lambda: None)
    with pytest.raises(ConfigError, match=r"llm\.shard: --llm mine: Linear has no layers to divide"):
        shard_layers(nn.Linear(2, 2), CPU, "--llm mine")
    for attribute, value in (("is_quantized", True), ("hf_device_map", {"": 0})):
        model = llama()
        setattr(model, attribute, value)
        with pytest.raises(ConfigError, match=r"llm\.shard: --llm mine is quantised, or placed on several devices"):
            shard_layers(model, CPU, "--llm mine")
    monkeypatch.setattr("torch.distributed.fsdp.fully_shard", lambda module: module)
    with pytest.raises(ConfigError, match="cannot divide a part of a model; install a newer one"):
        shard_layers(llama(), CPU, "--llm mine")


MAPPED = """
import sys
from pathlib import Path
import torch
from speechmapper.llm_loading import load_llm
from sm_pipeline.models.source import resolve_model

def own_bytes():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])

load_llm(resolve_model(sys.argv[1], "llm"), torch.device("cpu"), "float32")
before = own_bytes()
llm = load_llm(resolve_model(sys.argv[2], "llm"), torch.device("cpu"), "float32")
sum(float(weight.sum()) for weight in llm.model.parameters())
print(own_bytes() - before, sum(weight.nbytes for weight in llm.model.parameters()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_weights_are_mapped_so_that_processes_share_them(folder, tmp_path):
    wide = llama().config
    wide.hidden_size, wide.intermediate_size, wide.num_hidden_layers = 512, 2048, 4
    type(llama())(wide).save_pretrained(tmp_path)
    for file in folder.glob("*token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    line = [sys.executable, "-c", MAPPED, str(folder), str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    grown, weights = map(int, done.stdout.split())
    assert weights > 50e6 and grown < 0.2 * weights
