"""The real SmolLM2-135M: it repeats exact text embeddings, with pads behind them, as it repeats the text itself."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from sm_pipeline.models.source import resolve_model
from speechmapper.llm import FrozenLLM
from speechmapper.llm_loading import load_llm
from speechmapper.measure.text import error_rates
from speechmapper.tasks import ASR, Item

TEXTS = [
    "the old farmer opened a red box today",
    "every young teacher painted the table",
    "the little boy found seven apples near the river",
    "my sister will visit our uncle in the morning",
    "a green bird sang in the tall tree",
    "we walked home through the quiet village",
]
WER_REPEATED = 0.3  # 0.02 to 0.1 by the machine's float arithmetic; 1 and more for vectors it cannot read
PADS = 3  # speech gives more vectors than the text has tokens


@pytest.fixture(scope="module")
def llm() -> FrozenLLM:
    return load_llm(resolve_model("smollm2-135m", "llm"), torch.device("cpu"))


def ids_of(llm: FrozenLLM, text: str, pads: int) -> list[int]:
    return [*llm.tokenizer(text, add_special_tokens=False)["input_ids"], *[llm.tokenizer.pad_token_id] * pads]


def test_it_repeats_exact_embeddings(llm):
    rows = [llm.embed(ids_of(llm, text, PADS)) for text in TEXTS]
    lengths = torch.tensor([len(row) for row in rows])
    vectors = pad_sequence(rows, batch_first=True)
    outputs = llm.generate(
        vectors, lengths, [llm.prompter.write(ASR.instruction(Item()))] * len(TEXTS), max_new_tokens=24
    )
    assert error_rates(TEXTS, outputs)["wer"] <= WER_REPEATED


@torch.no_grad()
def test_splicing_embeddings_gives_the_logits_of_token_ids(llm):
    prompt = llm.prompter.write(ASR.instruction(Item(TEXTS[0]), learn=True))
    ids = ids_of(llm, TEXTS[0], PADS)
    spliced = float(llm.answer_loss(llm.embed(ids)[None], torch.tensor([len(ids)]), [prompt]))
    whole = torch.tensor([[*prompt.before, *ids, *prompt.after, *prompt.answer]])
    labels = whole.clone()
    labels[:, : -len(prompt.answer)] = -100
    assert spliced == pytest.approx(float(llm.model(whole, labels=labels).loss) * len(prompt.answer), rel=1e-3)
