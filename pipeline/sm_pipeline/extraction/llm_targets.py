"""Targets of stage 1: an utterance's text as token ids, and the pad token that follows them.

    targets = build_targets(TargetConfig(llm="smollm2-135m"), dtype="float16")
    targets.spec.pad_token                            "<|im_end|>"
    targets.add_to(store)                             the store keeps tokenizer and table from now on
    TextTokenizer.from_target_set(store.targets("smollm2-135m")).token_ids("He hoped.")         int32 [255, 14762]

The pad token's embedding fills every position after the text, so it must be distinct: not near zero, not
huge, not one of the rows that training never changed, which are all alike. For three LLM families the method names the
token; for others the tokenizer's own pad token is taken if it passes, and otherwise the user has to name one.

Shapes: V vocabulary, E LLM width.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from transformers import PreTrainedTokenizerBase

from sm_pipeline.announce import announced
from sm_pipeline.config import TargetConfig
from sm_pipeline.models.llm_table import LlmTable, load_llm_table
from sm_pipeline.models.source import resolve_model
from sm_pipeline.models.tokenizer import load_tokenizer
from sm_pipeline.text import NORMALIZER
from sm_store import Store, TargetSpec
from sm_store.document import check_target_name
from sm_store.errors import ConfigError, ModelError
from sm_store.targets import table_rows, table_scale, table_sha256, tokenizer_sha256

# A pad row is degenerate outside these norms, relative to the median row (method, section 1) ...
PAD_NORM_RANGE = (0.3, 3.0)
# ... or nearer than this to another reserved row: squared distance over the pad row's squared norm. Rows that
# training never touched stay equal up to quantisation, which moves a row by 0.5 % at 4 bits.
PAD_COPY_DISTANCE = 0.01
PAD_ROWS_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class KnownPad:
    """A family's pad token, recognised by what its tokenizer holds."""

    family: str
    token: str
    pad_id: int
    also: tuple[tuple[str, int], ...]  # further tokens and ids that tell the family from its relatives


KNOWN_PADS = (
    KnownPad("Llama 3.1", "<|finetune_right_pad_id|>", 128004, (("<|begin_of_text|>", 128000),)),
    KnownPad("Qwen3", "<|file_sep|>", 151664, (("<think>", 151667), ("<|im_end|>", 151645))),
    KnownPad("EuroLLM", "</s>", 2, (("<|im_start|>", 3), ("<|im_end|>", 4))),
)


@dataclass(frozen=True, slots=True)
class Targets:
    """The parts of a target set: its identity, and the LLM's tokenizer and table."""

    spec: TargetSpec
    llm: LlmTable

    def add_to(self, store: Store) -> None:
        """Add the target set to a store; if the same one is there already, nothing happens.

        Raises:
            IdentityMismatch: a target set of that name is there and differs.
        """
        store.add_target_set(self.spec, self.llm.table_VE, self.llm.tokenizer_files)


def check_llm(config: TargetConfig) -> None:
    """Check what can be known without the LLM's weights: that it exists, its tokenizer, and the names given.

    Raises:
        ModelError: no such LLM, or no usable tokenizer. ConfigError: a bad name of the target set or pad token.
    """
    check_target_name(config.name or default_name(config.llm))
    tokenizer = load_tokenizer(resolve_model(config.llm, "llm", weights=False))
    if config.pad_token is not None:
        require_token(tokenizer, config.pad_token, config.llm)


def require_token(tokenizer: PreTrainedTokenizerBase, token: str, llm: str) -> int:
    """The id of the pad token that was named. Raises ConfigError where the vocabulary does not have it."""
    vocabulary = tokenizer.get_vocab()
    if token not in vocabulary:
        raise ConfigError(f"--pad-token {token!r}: not a token of {llm}; name one of its vocabulary")
    return int(vocabulary[token])


def build_targets(config: TargetConfig, dtype: str, normalizer: str = NORMALIZER) -> Targets:
    """Read tokenizer and table of the LLM and determine the target set's identity.

    Args:
        dtype: of the embeddings read, the store's own. normalizer: of the texts, the store's own.

    Raises:
        ModelError: an LLM that cannot be used; no usable pad token. ConfigError: a bad name.
    """
    with announced(f"reading the embedding table of {config.llm}"):
        llm = load_llm_table(config.llm)
    table = llm.table_VE
    largest = max(llm.tokenizer.get_vocab().values(), default=-1)
    if largest >= len(table):
        raise ModelError(
            f"--llm {config.llm}: token id {largest} has no row in its embedding table of {len(table)}; "
            "tokenizer and weights do not belong together"
        )
    pad_token, pad_id = choose_pad(llm.tokenizer, table, config.pad_token, config.llm)
    spec = TargetSpec(
        name=config.name or default_name(config.llm),
        llm=llm.source.id,
        revision=llm.source.revision,
        tokenizer_sha256=tokenizer_sha256(llm.tokenizer_files),
        table_sha256=table_sha256(table),
        table_scale=table_scale(table),
        pad_token=pad_token,
        pad_id=pad_id,
        width=table.shape[1],
        vocabulary=table.shape[0],
        kind=config.kind,
        geometry=config.geometry,
        dtype=dtype,
        normalizer=normalizer,
    )
    return Targets(spec, llm)


def choose_pad(
    tokenizer: PreTrainedTokenizerBase, table_VE: np.ndarray, wanted: str | None, llm: str
) -> tuple[str, int]:
    """The pad token and its id: the one named, else the family's, else the tokenizer's own if it is sound.

    Raises:
        ConfigError: `wanted` is no token. ModelError: no usable pad token; the message says how to name one.
    """
    if wanted is not None:
        return wanted, require_token(tokenizer, wanted, llm)
    vocabulary = tokenizer.get_vocab()
    for known in KNOWN_PADS:
        if all(vocabulary.get(token) == row for token, row in ((known.token, known.pad_id), *known.also)):
            return known.token, known.pad_id
    remedy = "name a token whose embedding was trained with --pad-token TOKEN"
    if tokenizer.pad_token_id is None:
        raise ModelError(f"--llm {llm}: its tokenizer has no pad token; {remedy}")
    problem = pad_problem(table_VE, int(tokenizer.pad_token_id), reserved_rows(tokenizer, len(table_VE)))
    if problem is not None:
        raise ModelError(f"--llm {llm}: its pad token {tokenizer.pad_token!r} {problem}; {remedy}")
    return str(tokenizer.pad_token), int(tokenizer.pad_token_id)


def reserved_rows(tokenizer: PreTrainedTokenizerBase, num_rows: int) -> np.ndarray:
    """Rows that text never uses: special and added tokens, and rows beyond the tokenizer; ascending int64."""
    beyond = range(max(tokenizer.get_vocab().values(), default=-1) + 1, num_rows)
    rows = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder, *beyond}
    return np.asarray(sorted(row for row in rows if 0 <= row < num_rows), np.int64)


def pad_problem(table_VE: np.ndarray, pad_id: int, reserved: np.ndarray) -> str | None:
    """Why the row cannot serve as pad embedding; None where it can.

    Args:
        reserved: rows to compare with, (n,); the pad row itself is left out.
    """
    pad_E = table_VE[pad_id].astype(np.float64)
    norm = float(np.linalg.norm(pad_E))
    norms_V = np.concatenate([np.linalg.norm(rows, axis=1) for rows in table_rows(table_VE)])
    median = float(np.median(norms_V))
    if not PAD_NORM_RANGE[0] * median <= norm <= PAD_NORM_RANGE[1] * median:
        return f"has an embedding of {norm / max(median, 1e-30):.2g} times the median norm"
    others = reserved[reserved != pad_id]
    if not len(others):
        return None
    pieces = np.array_split(others, -(-len(others) // PAD_ROWS_AT_ONCE))
    distances = np.concatenate([np.square(table_VE[rows] - pad_E).sum(axis=1) for rows in pieces]) / norm**2
    if distances.min() < PAD_COPY_DISTANCE:
        twin = int(others[distances.argmin()])
        return f"has the same embedding as reserved row {twin}, so it was never trained"
    return None


def default_name(llm: str) -> str:
    """A target set's name from its LLM's: `utter-project/EuroLLM-9B@main` -> `eurollm-9b`."""
    last = PurePath(llm.partition("@")[0]).name.removesuffix(".gguf")
    return re.sub(r"[^a-z0-9._-]+", "-", last.lower()).strip("-._") or "llm"
