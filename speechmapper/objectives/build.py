"""Builds an objective from its configuration: `mse+cosine` is the sum of these two parts with their weights.

name                      parts
mse                       the paper's word/pad-weighted squared error
mse+cosine                the same and gamma times the cosine
l1+cosine+contrastive     a later recipe by the same group; `+ctc` adds its auxiliary CTC
ctc-embedding             CTC over distances to the table; `+commitment` draws the vectors to the rows
ctc-embedding+kd          and what the LLM's first layers make of the vectors, as of the text
dtw                       tokens aligned by dynamic time warping, vectors pooled by learned weights
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from sm_pipeline.models.tokenizer import load_stored_tokenizer
from sm_store import Geometry, TargetSet
from sm_store.errors import ConfigError
from speechmapper.config import ALL, ObjectiveConfig
from speechmapper.first_layers import first_layers_of
from speechmapper.heads import Head
from speechmapper.objectives.base import Objective, Part
from speechmapper.objectives.contrastive import Contrastive
from speechmapper.objectives.cosine import Cosine
from speechmapper.objectives.ctc import COMMITMENT, AuxiliaryCTC, EmbeddingCTC
from speechmapper.objectives.distance import WeightedDistance
from speechmapper.objectives.dtw import DynamicTimeWarping
from speechmapper.objectives.kd import FirstLayersDistillation
from speechmapper.objectives.respelling import Respelling, respell
from speechmapper.objectives.vocabulary import Vocabulary
from speechmapper.projector import ProjectorConfig


@dataclass(frozen=True)
class Materials:
    """What parts are built from."""

    config: ObjectiveConfig
    targets: TargetSet
    projector: ProjectorConfig
    device: torch.device
    token_counts: Callable[[], np.ndarray] | None = None

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The embedding table on the device, once for all parts."""
        return Vocabulary(torch.from_numpy(self.targets.table).to(self.device), self.config.negatives)

    @cached_property
    def respelling(self) -> Respelling | None:
        """How rare tokens are spelled; None where the vocabulary is the whole one."""
        least = self.config.vocabulary
        if least == ALL:
            return None
        if self.token_counts is None:
            raise ConfigError(f"objective.vocabulary {least}: the training texts are not known here; set it to {ALL}")
        counts_V = self.token_counts()
        spellings = respell(counts_V, load_stored_tokenizer(self.targets), int(least))
        return Respelling(spellings, len(counts_V), self.device)


def _distance(given: Materials, squared: bool) -> Part:
    config = given.config
    return WeightedDistance(config.alpha, config.reduction, given.targets.spec.table_scale, squared)


def _auxiliary_ctc(given: Materials) -> Part:
    sizes = given.projector
    first = Geometry((sizes.kernel_sizes[0],), (sizes.strides[0],), (sizes.paddings[0],))
    return AuxiliaryCTC(given.vocabulary, sizes.block_outputs[0], first)


def _embedding_ctc(given: Materials) -> Part:
    config = given.config
    weight = config.weight(COMMITMENT) if COMMITMENT in config.name.split("+") else None
    return EmbeddingCTC(given.vocabulary, config.ctc_temperature, weight, given.respelling)


def build_distillation(
    config: ObjectiveConfig,
    targets: TargetSet,
    projector: ProjectorConfig,
    device: torch.device,
    token_counts: Callable[[], np.ndarray] | None = None,
) -> Part:
    """Part `kd` alone, with `objective.kd_layers` layers: what stage 2 can train in place of cross-entropy.

    Raises:
        ConfigError, ModelError: an LLM whose first layers cannot be used.
    """
    return _kd(Materials(config, targets, projector, device, token_counts)).to(device)


def _kd(given: Materials) -> Part:
    config, sizes = given.config, given.projector
    layers = first_layers_of(config.llm, config.kd_layers, given.targets, given.device)
    head = Head(sizes, given.vocabulary.table_VE, given.targets.spec.pad_id, given.device)
    return FirstLayersDistillation(layers, head, given.vocabulary, sizes.readout, given.respelling)


PARTS: dict[str, Callable[[Materials], Part]] = {
    "mse": lambda given: _distance(given, squared=True),
    "l1": lambda given: _distance(given, squared=False),
    "cosine": lambda given: Cosine(),
    "centered-cosine": lambda given: Cosine("centered-cosine", given.vocabulary.mean_E),
    "contrastive": lambda given: Contrastive(
        given.vocabulary, given.targets.spec.pad_id, given.config.contrastive_temperature
    ),
    "ctc": _auxiliary_ctc,
    "ctc-embedding": _embedding_ctc,
    "dtw": lambda given: DynamicTimeWarping(given.vocabulary.mean_E, given.targets.spec.table_scale),
    "kd": _kd,
}
WITHIN = {COMMITMENT: "ctc-embedding"}  # named like a part, but computed by another one
MAIN = {"mse", "l1", "ctc-embedding", "dtw"}  # an objective has at least one of these


def readout_of(name: str) -> str:
    """How vectors trained with an objective of this name are read: `nearest` row, `ctc` or `cif`."""
    names = name.split("+")
    return "ctc" if "ctc-embedding" in names else "cif" if "dtw" in names else "nearest"


def build_objective(
    config: ObjectiveConfig,
    targets: TargetSet,
    projector: ProjectorConfig,
    device: torch.device,
    token_counts: Callable[[], np.ndarray] | None = None,
) -> Objective:
    """The objective a configuration names, on `device`.

    Args:
        token_counts: how often each token occurs in the training texts, (V,); only a restricted vocabulary asks for it.

    Raises:
        ConfigError: an unknown part, one named twice, or an impossible setting.
    """
    given = Materials(config, targets, projector, device, token_counts)
    names = config.name.split("+")
    for name in names:
        if (name not in PARTS and name not in WITHIN) or names.count(name) > 1:
            known = ", ".join([*PARTS, *WITHIN])
            raise ConfigError(f"objective.name {config.name!r}: join some of {known} by +, each once")
        if name in WITHIN and WITHIN[name] not in names:
            raise ConfigError(f"objective.name {config.name!r}: {name} needs {WITHIN[name]}; join it by +")
    both = [pair for pair in ({"mse", "l1"}, {"ctc-embedding", "dtw"}) if pair <= set(names)]
    if both or not MAIN & set(names):
        raise ConfigError(f"objective.name {config.name!r}: name one of mse and l1, or one of ctc-embedding and dtw")
    readout = readout_of(config.name)
    if readout != "nearest" and projector.readout != readout:
        raise ConfigError(f"objective.name {config.name!r}: this projector was not trained with it ({readout})")
    parts = [name for name in names if name in PARTS]
    return Objective({name: (PARTS[name](given), config.weight(name)) for name in parts}).to(device)
