"""Targets: token ids of the normalised text, and a pad token whose embedding is one of its own."""

from __future__ import annotations

import numpy as np
import pytest

from sm_pipeline.config import TargetConfig
from sm_pipeline.extraction.llm_targets import (
    KNOWN_PADS,
    build_targets,
    choose_pad,
    default_name,
    pad_problem,
    reserved_rows,
)
from sm_pipeline.models.llm_table import load_llm_table
from sm_pipeline.models.tokenizer import TextTokenizer
from sm_store import Geometry, Store
from sm_store.errors import ConfigError, IdentityMismatch, ModelError, StoreCorrupt
from sm_store.targets import table_scale, table_sha256, tokenizer_sha256
from tests.pipeline import llms
from tests.store import building


class FakeTokenizer:
    """What `choose_pad` asks of a tokenizer, with a vocabulary of choice."""

    def __init__(self, vocabulary: dict[str, int], pad: str | None = None, special: tuple[str, ...] = ()) -> None:
        self._vocabulary = vocabulary
        self.pad_token = pad
        self.pad_token_id = None if pad is None else vocabulary[pad]
        self.all_special_ids = [vocabulary[token] for token in special]
        self.added_tokens_decoder = {vocabulary[token]: token for token in special}

    def get_vocab(self) -> dict[str, int]:
        return self._vocabulary


def sound_table(rows: int = 20, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32)


@pytest.mark.parametrize("known", KNOWN_PADS, ids=lambda known: known.family)
def test_the_methods_pad_tokens(known):
    vocabulary = {known.token: known.pad_id, **dict(known.also), "word": 11, "</s>": 2}
    fake = FakeTokenizer(vocabulary, pad="word")
    assert choose_pad(fake, sound_table(), None, "x") == (known.token, known.pad_id)


def test_relatives_of_known_families_keep_their_own():
    qwen25 = {"<|file_sep|>": 151664, "<|im_end|>": 151645, "<|endoftext|>": 3}  # no <think>: not Qwen3
    assert choose_pad(FakeTokenizer(qwen25, "<|endoftext|>"), sound_table(), None, "x") == ("<|endoftext|>", 3)
    llama2 = {"</s>": 2, "<s>": 1, "pad": 4}  # </s> is 2 there too
    assert choose_pad(FakeTokenizer(llama2, "pad"), sound_table(), None, "x") == ("pad", 4)


def test_the_families_and_ids_of_the_method():
    assert {known.family: (known.token, known.pad_id) for known in KNOWN_PADS} == {
        "Llama 3.1": ("<|finetune_right_pad_id|>", 128004),
        "Qwen3": ("<|file_sep|>", 151664),
        "EuroLLM": ("</s>", 2),
    }


def test_a_named_token_wins_and_must_exist():
    fake = FakeTokenizer({"a": 0, "b": 1}, "a")
    assert choose_pad(fake, np.zeros((2, 4), np.float32), "b", "x") == ("b", 1)
    with pytest.raises(ConfigError, match=r"--pad-token 'c': not a token of x"):
        choose_pad(fake, sound_table(), "c", "x")


def test_no_pad_token_is_an_error_with_the_remedy():
    with pytest.raises(ModelError, match=r"--llm x: its tokenizer has no pad token; name .* with --pad-token"):
        choose_pad(FakeTokenizer({"a": 0}), sound_table(), None, "x")


@pytest.mark.parametrize(("factor", "sound"), [(0.0, False), (0.25, False), (0.4, True), (2.5, True), (3.5, False)])
def test_norms_of_pad_rows(factor, sound):
    table = sound_table()
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    table[4] *= factor
    problem = pad_problem(table, 4, np.asarray([4]))
    assert (problem is None) == sound
    assert problem is None or "times the median norm" in problem


@pytest.mark.parametrize(("distance", "sound"), [(0.0, False), (0.005, False), (0.02, True), (1.0, True)])
def test_copies_of_reserved_rows(distance, sound):
    table = sound_table()
    other = table[9] - table[4] * (table[9] @ table[4]) / (table[4] @ table[4])  # orthogonal to row 4
    table[7] = table[4] + other / np.linalg.norm(other) * np.linalg.norm(table[4]) * np.sqrt(distance)
    problem = pad_problem(table, 4, np.asarray([4, 7]))
    assert (problem is None) == sound
    assert problem is None or "reserved row 7" in problem
    assert pad_problem(table, 4, np.asarray([4, 8])) is None  # a copy among words is no sign of anything


def test_a_degenerate_pad_token_is_refused_with_the_remedy():
    table = sound_table()
    table[1] = table[0]
    fake = FakeTokenizer({"<pad>": 0, "<r>": 1, **{f"w{n}": n for n in range(2, 20)}}, "<pad>", ("<pad>", "<r>"))
    with pytest.raises(ModelError, match=r"pad token '<pad>' has the same embedding as reserved row 1.*--pad-token"):
        choose_pad(fake, table, None, "x")


def test_reserved_rows_are_special_added_and_beyond_the_tokenizer():
    rows = reserved_rows(llms.tokenizer(), llms.VOCABULARY)
    words = len(llms.SPECIAL) + len(llms.WORDS)
    assert rows.tolist() == [0, 1, 2, 3, *range(words, llms.VOCABULARY)]


def test_smollm2s_own_pad_token_passes():
    """Its row is near the rows never trained (1.9 % of its squared norm), but not one of them."""
    llm = load_llm_table("smollm2-135m")
    assert choose_pad(llm.tokenizer, llm.table_VE, None, "smollm2-135m") == ("<|im_end|>", 2)
    reserved = reserved_rows(llm.tokenizer, len(llm.table_VE))
    assert reserved.tolist() == list(range(17))
    assert pad_problem(llm.table_VE, 9, reserved) is not None  # <issue_comment>, a row never trained
    pad = llm.table_VE[2]
    nearest = min(np.square(llm.table_VE[row] - pad).sum() / np.square(pad).sum() for row in reserved if row != 2)
    assert 0.015 < nearest < 0.025


def test_a_target_set_says_what_it_is_made_of(tiny_llm):
    targets = build_targets(TargetConfig(str(tiny_llm), kind="table"), "float32")
    spec, table = targets.spec, targets.llm.table_VE
    assert (spec.name, spec.llm, spec.revision, spec.kind, spec.dtype) == (
        "tiny-llm",
        str(tiny_llm),
        None,
        "table",
        "float32",
    )
    assert (spec.pad_token, spec.pad_id) == ("<pad>", 0)
    assert (spec.vocabulary, spec.width) == (llms.VOCABULARY, llms.WIDTH)
    assert spec.table_sha256 == table_sha256(table)
    assert spec.table_scale == table_scale(table)
    assert spec.tokenizer_sha256 == tokenizer_sha256(targets.llm.tokenizer_files)
    assert (spec.normalizer, spec.geometry) == ("mms-2", Geometry())


def test_names_and_pad_tokens_are_the_users(tiny_llm):
    spec = build_targets(TargetConfig(str(tiny_llm), name="mine", pad_token="</s>"), "float16").spec
    assert (spec.name, spec.pad_token, spec.pad_id) == ("mine", "</s>", 2)


@pytest.mark.parametrize(
    ("llm", "name"),
    [
        ("smollm2-135m", "smollm2-135m"),
        ("utter-project/EuroLLM-9B@main", "eurollm-9b"),
        ("/models/Meta Llama 3.1/", "meta-llama-3.1"),
        ("./x.gguf", "x"),
        ("/", "llm"),
    ],
)
def test_default_names(llm, name):
    assert default_name(llm) == name


def test_a_tokenizer_with_more_tokens_than_rows(tmp_path):
    words = llms.tokenizer()
    words.add_tokens([f"extra{number}" for number in range(llms.VOCABULARY)])
    folder = llms.save(tmp_path / "m", words=words)
    with pytest.raises(ModelError, match="has no row in its embedding table of 40"):
        build_targets(TargetConfig(str(folder)), "float16")


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "s.store", building.identity())


def test_the_store_keeps_all_that_tokenising_needs(store, tmp_path):
    folder = llms.save(tmp_path / "gone")
    targets = build_targets(TargetConfig(str(folder)), "float16")
    targets.add_to(store)
    targets.add_to(store)  # the same again is nothing
    for path in folder.iterdir():
        path.unlink()
    kept = Store.open(store.root).targets("gone")
    np.testing.assert_array_equal(kept.table, targets.llm.table_VE)
    tokenizer = TextTokenizer.from_target_set(kept)
    ids = tokenizer.token_ids("The OLD dog,  and xyz!")
    assert ids.dtype == np.int32
    assert ids.tolist() == [4, 5, 6, 4 + llms.WORDS.index("and"), 3]  # normalised, without <s> and </s>
    assert tokenizer.token_ids("?!").shape == (0,)
    assert tokenizer.geometry == Geometry()


def test_special_tokens_in_a_transcript_are_only_words(store, tiny_llm):
    build_targets(TargetConfig(str(tiny_llm)), "float16").add_to(store)
    tokenizer = TextTokenizer.from_target_set(store.targets("tiny-llm"))
    assert set(tokenizer.token_ids("</s> <pad> the").tolist()) == {3, 4}  # "s" and "pad" are unknown words


def test_another_llm_under_the_same_name_is_refused(store, tiny_llm, tmp_path):
    build_targets(TargetConfig(str(tiny_llm)), "float16").add_to(store)
    other = build_targets(TargetConfig(str(llms.save(tmp_path / "o", llms.llama(1))), name="tiny-llm"), "float16")
    with pytest.raises(IdentityMismatch, match="table_sha256"):
        other.add_to(store)


def test_a_damaged_tokenizer_is_noticed(store, tiny_llm):
    build_targets(TargetConfig(str(tiny_llm)), "float16").add_to(store)
    kept = store.targets("tiny-llm")
    path = kept.tokenizer_dir / "tokenizer.json"
    path.write_bytes(path.read_bytes().replace(b'"old"', b'"odd"'))
    with pytest.raises(StoreCorrupt, match=r"tokenizer\.json"):
        TextTokenizer.from_target_set(Store.open(store.root).targets("tiny-llm"))
