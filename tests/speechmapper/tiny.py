"""A tiny world: a word tokenizer, a random two-layer Llama, and a store whose speech can be learnt.

Each word has a fixed random 24-dimensional pattern; an utterance is its words' patterns, 4 to 7 frames each,
with noise. So a projector of a few thousand parameters learns it in some hundred steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sm_pipeline.models.quiet import quiet_transformers
from sm_store import Fields, Geometry, Identity, Record, Store, TargetSpec
from sm_store.targets import table_scale, table_sha256, tokenizer_sha256
from speechmapper.config import DataConfig, Stage1Config, Stage2Config
from speechmapper.config_file import load_config
from speechmapper.loader.data import DataRequest, TrainingData, open_data
from speechmapper.loader.prefetch import Source
from speechmapper.projector import Projector

SPOKEN = "the a old dog bird house red sang slept saw by river and boat small green walked home in rain"
WORDS = f"{SPOKEN} you copy what user says repeat text quotes once nothing else".split()
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>")
PUNCTUATION = ('"', ".", ",", ":", "'")
WIDTH = 24  # of the encoder
EMBEDDING = 32  # of the LLM
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|> {{ m['role'] }} {{ m['content'] }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


def tokenizer(template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """One token a word, `<unk>` for the rest."""
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *PUNCTUATION, *WORDS, "system", "assistant"))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    made.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    fast.chat_template = template
    return fast


def llama(seed: int = 0, vocabulary: int = 64) -> LlamaForCausalLM:
    """Random weights, large enough that outputs differ clearly."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=EMBEDDING,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.4,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,  # a padding row would be zero
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config).eval()


def save_llm(folder: Path, seed: int = 0) -> Path:
    """The tiny LLM as a model folder."""
    with quiet_transformers():
        llama(seed).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class World:
    """A store on disk and what it was made from."""

    path: Path
    llm_folder: Path
    texts: list[str]

    @property
    def store(self) -> Store:
        return Store.open(self.path)


def fields_of(
    text: str, question: str | None = None, answer: str | None = None, translation: dict[str, str] | None = None
) -> Fields:
    """Fields of an utterance of one second."""
    return Fields(text, 1.0, question=question, answer=answer, translation=translation)


def sentences(count: int, seed: int, longest: int = 6) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS[:20], rng.integers(2, longest + 1))) for _ in range(count)]


def speak(text: str, rng: np.random.Generator, noise: float = 0.1) -> np.ndarray:
    """Features (T, WIDTH) of a text."""
    patterns = np.random.default_rng(77).normal(size=(len(WORDS), WIDTH))
    pieces = [np.repeat(patterns[WORDS.index(word)][None], rng.integers(6, 10), axis=0) for word in text.split()]
    features = np.concatenate(pieces)
    return (features + noise * rng.normal(size=features.shape)).astype(np.float16)


def make_world(
    folder: Path,
    utterances: int = 40,
    shards: int = 2,
    splits: Sequence[str | None] = ("train",) * 6 + ("dev", "test"),
    kind: str = "dense",
    llm_seed: int = 0,
    **fields: Any,
) -> World:
    """A store with one target set, `tiny`, of the LLM saved beside it."""
    llm_folder = save_llm(folder / "llm", llm_seed)
    identity = tiny_identity(plan={"shards": shards})
    store = Store.create(folder / "store", identity)
    add_tiny_targets(store, llm_folder, "tiny", kind, llm_seed)
    texts = sentences(utterances, seed=5)
    commit_spoken(store, texts, "tiny", "u", splits, shards, **fields)
    return World(folder / "store", llm_folder, texts)


def tiny_identity(**changes: Any) -> Identity:
    """The identity of a tiny store."""
    made = {"encoder": {"id": "tiny", "layer": 2, "width": WIDTH}, "front_end": {"name": "patterns"}}
    return Identity(**{**made, "manifest_sha256": "0" * 64, **changes})


def second_store(
    folder: Path,
    *,
    name: str = "tiny",
    kind: str = "dense",
    prefix: str = "v",
    splits: Sequence[str | None] = ("train",) * 6 + ("dev", "test"),
    llm_seed: int = 0,
    llm_folder: Path | None = None,
    **changes: Any,
) -> Path:
    """A store of 8 other utterances in 2 shards that can be trained on together with a world's.

    Args:
        name, kind, llm_seed, llm_folder: of its target set; the LLM is saved beside the store unless there is one.
        prefix: of its ids. changes: of its identity.
    """
    store = Store.create(folder, tiny_identity(**{"manifest_sha256": "1" * 64, "plan": {"shards": 2}, **changes}))
    llm_folder = llm_folder or save_llm(folder.with_name(f"{folder.name}-llm"), llm_seed)
    add_tiny_targets(store, llm_folder, name, kind, llm_seed)
    commit_spoken(store, sentences(8, seed=15), name, prefix, splits, 2, width=1)
    return folder


def add_tiny_targets(store: Store, llm_folder: Path, name: str, kind: str, llm_seed: int) -> None:
    """Add the target set of a tiny LLM that was saved there."""
    table = llama(llm_seed).get_input_embeddings().weight.detach().numpy().astype(np.float32)
    files = {
        file: (llm_folder / file).read_bytes()
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    }
    store.add_target_set(
        TargetSpec(
            name=name,
            llm=str(llm_folder),
            revision=None,
            tokenizer_sha256=tokenizer_sha256(files),
            table_sha256=table_sha256(table),
            table_scale=table_scale(table),
            pad_token="<pad>",
            pad_id=0,
            width=EMBEDDING,
            vocabulary=len(table),
            kind=kind,
            geometry=Geometry(),
        ),
        table,
        files,
    )


def commit_spoken(
    store: Store,
    texts: Sequence[str],
    target: str,
    prefix: str,
    splits: Sequence[str | None],
    shards: int,
    width: int = 3,
    **fields: Any,
) -> None:
    """Commit the texts as spoken, in shards of about equal size; ids are `prefix` and `width` digits."""
    rng, words = np.random.default_rng(6), tokenizer()
    records = [
        Record(
            f"{prefix}{number:0{width}d}",
            speak(text, rng),
            Fields(text=text.capitalize() + ".", duration=1.0, split=splits[number % len(splits)], **fields),
        )
        for number, text in enumerate(texts)
    ]
    ids = [np.asarray(words(text)["input_ids"], np.int32) for text in texts]
    for shard, part in enumerate(np.array_split(np.arange(len(texts)), shards)):
        store.commit(shard, [records[row] for row in part], [], {target: [ids[row] for row in part]})


SMALL_MODEL = {
    "block_sizes": [32, 32],
    "block_outputs": [32, 32],
    "num_layers": [1, 1],
    "num_heads": 4,
    "ffn_size": 48,
    "dropout": 0.1,
    "scale_to_table": True,
}


def quiet_run() -> dict[str, Any]:
    """Settings of a run that only trains."""
    return {
        "device": "cpu",
        "trackers": [],
        "log_every": 1,
        "eval_utterances": 0,
        "eval_every": 0,
        "save_every": 0,
    }


def stage1_config(**sections: Any) -> Stage1Config:
    """A configuration for the tiny world; keyword arguments are laid over its sections."""
    base = {
        "model": SMALL_MODEL,
        "objective": {"name": "mse+cosine"},
        "data": {"frames": 200, "max_utterances": 6},
        "optimizer": {"lr": 3e-3},
        "schedule": {"steps": 8, "warmup": 2},
        "run": quiet_run(),
    }
    return load_config("stage1", Stage1Config, [("tests", base), ("tests", sections)])


def stage2_config(**sections: Any) -> Stage2Config:
    """As `stage1_config`, for stage 2."""
    base = {
        "tuning": {"sigma": 0.9},
        "data": {"frames": 200, "max_utterances": 4, "micro_batches": 2},
        "optimizer": {"lr": 1e-3},
        "schedule": {"steps": 3, "warmup": 0},
        "run": quiet_run(),
    }
    return load_config("stage2", Stage2Config, [("tests", base), ("tests", sections)])


def source_of(world: World, geometry: Geometry | None = None) -> Source:
    """What a run of the tiny world reads from."""
    return Source(world.store, "tiny", geometry or Geometry())


def data_of(world: World, data: DataConfig, seed: int = 1, **request: Any) -> TrainingData:
    """The tiny world as a run sees it."""
    return open_data(DataRequest(world.path, **request), Geometry(), data, seed)


def distance(one: Path, other: Path) -> float:
    """The largest difference of a weight, but for the biases of the keys: a softmax does not see them, so their
    gradient is rounding alone, which AdamW takes for a direction."""
    first, second = (Projector.from_pretrained(run / "projector").state_dict() for run in (one, other))
    for weights in (first, second):
        for name in [name for name in weights if name.endswith("query_key_value.bias")]:
            weights[name].view(3, -1)[1] = 0
    return max(float((first[name] - second[name]).abs().max()) for name in first)
