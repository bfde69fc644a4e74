"""Distillation of first layers against the whole LLM, one utterance at a time."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch.nn import functional as F

from sm_store.errors import ConfigError
from speechmapper.first_layers import first_layers_of
from speechmapper.heads import Head
from speechmapper.objectives import Answers, kd
from speechmapper.objectives.kd import FirstLayersDistillation, divergence
from speechmapper.objectives.vocabulary import Vocabulary
from speechmapper.projector import Projected, ProjectorConfig
from tests.speechmapper.heads.test_rows import mixed_by_hand
from tests.speechmapper.objectives.test_forced_alignment import best_by_hand
from tests.speechmapper.tiny import EMBEDDING, llama

CPU = torch.device("cpu")
TEMPERATURE = 0.3
TEXTS = [[12, 12, 20], [7], [30, 8], [9, 9, 9]]
SIZES = [6, 3, 2, 4]  # the last needs five positions as CTC
FIRING = torch.rand(4, 7, generator=torch.Generator().manual_seed(6))  # of each position, where it is read as CIF
BLANK = 0.2 * torch.ones(EMBEDDING)
HEADS = [("nearest", "vectors"), ("nearest", "rows"), ("ctc", "rows"), ("ctc", "segments"), ("ctc", "vectors")]
HEADS += [("cif", "cif"), ("cif", "rows")]


@pytest.fixture(scope="module")
def table() -> torch.Tensor:
    return llama().get_input_embeddings().weight.detach()


def part_of(world, readout: str, head: str, layers: int = 1, negatives: int = 0) -> FirstLayersDistillation:
    targets = world.store.targets("tiny")
    sizes = ProjectorConfig(readout=readout, head=head, rows_temperature=TEMPERATURE)
    given = Head(sizes, targets.table, targets.spec.pad_id, CPU)
    vocabulary = Vocabulary(given.table_VE, negatives)
    return FirstLayersDistillation(first_layers_of(None, layers, targets, CPU), given, vocabulary, readout)


def batch(rows: slice = slice(None), noise: float = 0.4, readout: str = "ctc") -> tuple[Projected, Answers]:
    """Vectors near rows in random order; absurd ones beyond the lengths."""
    generator = torch.Generator().manual_seed(4)
    longest, size = max(map(len, TEXTS)), max(SIZES) + 1
    table = llama().get_input_embeddings().weight.detach()
    vectors = table[torch.randint(0, len(table), (len(TEXTS), size), generator=generator)]
    vectors = vectors + noise * torch.randn(vectors.shape, generator=generator)
    ids = torch.zeros(len(TEXTS), longest, dtype=torch.long)
    for row, (text, positions) in enumerate(zip(TEXTS, SIZES, strict=True)):
        vectors[row, positions:] = 1e6
        ids[row, : len(text)] = torch.tensor(text)
    lengths, tokens = torch.tensor(SIZES), torch.tensor([len(text) for text in TEXTS])
    vectors = vectors[rows].clone().requires_grad_()
    blank = BLANK if readout == "ctc" else None
    firing = FIRING[rows] if readout == "cif" else None
    given = Answers(torch.zeros(vectors.shape), lengths[rows], tokens[rows], ids[rows], 4 * lengths[rows])
    return Projected(vectors, lengths[rows], vectors, blank, firing_BU=firing), given


def by_hand(row: int, vectors: torch.Tensor, table: torch.Tensor, kind: tuple[str, str], count: int):
    """Sum of one utterance's divergences, by the whole LLM; None where its text cannot be aligned."""
    (readout, head), ids = kind, TEXTS[row]
    path: list[int] | None = [*range(len(ids)), *[-1] * (len(vectors) - len(ids))]
    if readout == "ctc":
        scores = -torch.cdist(vectors.detach(), table[ids]).square() / 2
        blank = -(vectors.detach() - BLANK).square().sum(dim=1) / 2
        path = best_by_hand(scores.tolist(), blank.tolist(), ids)
    if path is None:
        return None
    if readout == "cif":
        return distilled(pooled_by_hand(row, vectors, table, head), ids, table, count)
    given = mixed_by_hand(vectors, table, TEMPERATURE) if head == "rows" else vectors
    said = torch.tensor(path)
    speech = torch.stack([given[said == token].mean(dim=0) for token in range(len(ids))])
    return distilled(speech, ids, table, count)


def pooled_by_hand(row: int, vectors: torch.Tensor, table: torch.Tensor, head: str) -> torch.Tensor:
    """Of all ways to cut the vectors into one piece per token that with the largest cosines, pooled by the weights.

    Equal neighbours have equal cosines: of cuts that are as good, the earliest.
    """
    rows, best = table[TEXTS[row]], (-torch.inf, [])
    cosine = F.cosine_similarity(vectors.detach()[:, None], rows[None], dim=-1)
    for cuts in itertools.combinations(range(1, len(vectors)), len(rows) - 1):
        ends = [0, *cuts, len(vectors)]
        score = sum(float(cosine[ends[at] : ends[at + 1], at].sum()) for at in range(len(rows)))
        best = max(best, (round(score, 4), [-end for end in ends]))
    pieces = [slice(-start, -stop) for start, stop in itertools.pairwise(best[1])]
    firing = FIRING[row, :, None]
    pooled = torch.stack([(firing[piece] * vectors[piece]).sum(dim=0) / firing[piece].sum() for piece in pieces])
    return mixed_by_hand(pooled, table, TEMPERATURE) if head == "rows" else pooled


def distilled(speech: torch.Tensor, ids: list[int], table: torch.Tensor, count: int) -> torch.Tensor:
    """The divergence of one utterance after `count` layers of the whole LLM."""
    model = llama()

    def log_probs(inputs: torch.Tensor) -> torch.Tensor:
        states = model(inputs_embeds=inputs[None], output_hidden_states=True).hidden_states
        hidden = states[count] if count == len(model.model.layers) else model.model.norm(states[count])
        return model.lm_head(hidden[0]).log_softmax(dim=-1)

    return F.kl_div(log_probs(speech), log_probs(table[ids]).detach(), log_target=True, reduction="sum")


@pytest.mark.parametrize("kind", HEADS, ids="-".join)
@pytest.mark.parametrize("count", [1, 2])
def test_it_equals_the_whole_llm_run_on_each_utterance(world, table, kind, count):
    part = part_of(world, *kind, layers=count)
    made, given = batch(readout=kind[0])
    sums, counts = part(made, given), part.counts(given)
    part.combine(sums, counts).backward()
    again = made.vectors_BUE.detach().clone().requires_grad_()
    found = [by_hand(row, again[row, :size], table, kind, count) for row, size in enumerate(SIZES)]
    aligned = [each is not None for each in found]
    tokens = sum(len(ids) for ids, fits in zip(TEXTS, aligned, strict=True) if fits)
    expected = sum(each for each in found if each is not None)
    assert counts["kd"].item() == tokens
    assert (sums["kd_unaligned"].item(), counts["kd_unaligned"].item()) == (aligned.count(False), len(TEXTS))
    assert aligned.count(False) == (1 if kind[0] == "ctc" else 0)
    assert sums["kd"].item() == pytest.approx(expected.item(), rel=1e-4)
    (expected / tokens).backward()
    torch.testing.assert_close(made.vectors_BUE.grad, again.grad, rtol=1e-3, atol=1e-6)
    assert again.grad.abs().sum() > 0


def test_the_texts_own_rows_differ_in_nothing(world, table):
    part = part_of(world, "nearest", "vectors")
    made, given = batch(readout="nearest")
    vectors = torch.cat([table[given.token_ids_BN], made.vectors_BUE.detach()[:, 3:]], dim=1)
    exact = part(dataclasses.replace(made, vectors_BUE=vectors), given)["kd"].item()
    assert exact == pytest.approx(0, abs=1e-4) and part(made, given)["kd"].item() > 1


@pytest.mark.parametrize("kind", HEADS, ids="-".join)
def test_sums_counts_and_gradients_do_not_depend_on_how_a_step_is_cut(world, kind):
    part = part_of(world, *kind)
    made, given = batch(readout=kind[0])
    whole, counts = part(made, given), part.counts(given)
    whole["kd"].backward()
    pieces = [batch(rows, readout=kind[0]) for rows in (slice(0, 1), slice(1, 3), slice(3, 4))]
    sums = [part(*piece) for piece in pieces]
    for each in sums:
        each["kd"].backward() if each["kd"].requires_grad else None
    for name in whole:
        assert sum(each[name].item() for each in sums) == pytest.approx(whole[name].item(), rel=1e-4)
        assert sum(part.counts(answers)[name].item() for _, answers in pieces) == counts[name].item()
    gradients = [
        torch.zeros_like(made.vectors_BUE) if made.vectors_BUE.grad is None else made.vectors_BUE.grad
        for made, _ in pieces
    ]
    torch.testing.assert_close(torch.cat(gradients), made.vectors_BUE.grad, rtol=1e-3, atol=1e-5)


def test_with_negatives_the_batchs_tokens_and_rows_drawn_at_random_are_mixed(world, table):
    """Many draws leave no row out; few are another mixture."""
    made, given = batch()
    torch.manual_seed(0)
    whole, many, few = (part_of(world, "ctc", "rows", negatives=size)(made, given)["kd"] for size in (0, 5000, 2))
    assert many.item() == pytest.approx(whole.item(), rel=1e-4)
    assert few.item() != pytest.approx(whole.item(), rel=1e-4)
    few.backward()
    assert made.vectors_BUE.grad.abs().sum() > 0


def test_a_batch_without_any_aligned_text_has_no_loss(world):
    part = part_of(world, "ctc", "rows")
    made, given = batch(slice(3, 4))
    sums, counts = part(made, given), part.counts(given)
    assert {name: value.item() for name, value in sums.items()} == {"kd": 0, "kd_unaligned": 1}
    assert part.combine(sums, counts).item() == 0


def test_what_lies_beyond_an_utterance_gets_no_gradient(world):
    made, given = batch()
    part_of(world, "ctc", "rows")(made, given)["kd"].backward()
    for row, size in enumerate(SIZES):
        assert made.vectors_BUE.grad[row, size:].abs().sum() == 0


def test_the_layers_are_no_part_of_the_module(world):
    part = part_of(world, "ctc", "rows")
    assert not list(part.parameters()) and not part.state_dict() and not list(part.children())
    made, given = batch()
    part(made, given)["kd"].backward()
    assert part._layers.output_VE.grad is None


@pytest.mark.parametrize("positions", [1, 3, 1000])
def test_the_divergence_is_the_same_in_chunks_and_keeps_no_scores(monkeypatch, positions):
    generator = torch.Generator().manual_seed(0)
    text, speech, output = (torch.randn(rows, 6, generator=generator) for rows in (7, 7, 50))
    speech.requires_grad_()
    expected = F.kl_div(
        (speech @ output.T).log_softmax(-1), (text @ output.T).log_softmax(-1), log_target=True, reduction="sum"
    )
    (gradient,) = torch.autograd.grad(expected, speech)
    monkeypatch.setattr(kd, "CHUNK_SCORES", positions * len(output))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.shape) or tensor, lambda kept: kept
    ):
        found = divergence(text, speech, output)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(torch.autograd.grad(3 * found, speech)[0], 3 * gradient)
    assert not [shape for shape in kept if 50 in shape]


def test_autocast_changes_nothing(world):
    part = part_of(world, "ctc", "rows")
    made, given = batch()
    with torch.autocast("cpu", torch.bfloat16):
        inside = part(made, given)["kd"]
    assert torch.equal(inside, part(made, given)["kd"])


def test_a_projector_without_a_blank_is_refused(world):
    with pytest.raises(ConfigError, match="this projector has no blank"):
        part_of(world, "ctc", "rows")(*batch(readout="nearest"))
