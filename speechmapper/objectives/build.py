"""Builds an objective from its configuration: `mse+cosine` is the sum of these two parts with their weights.

name                      parts
mse                       the paper's word/pad-weighted squared error
mse+cosine                the same and gamma times the cosine
l1+cosine+contrastive     a later recipe by the same group; `+ctc` adds its auxiliary CTC
ctc-embedding             CTC over distances to the table
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from sm_store import Geometry, TargetSet
from sm_store.errors import ConfigError
from speechmapper.config import ObjectiveConfig
from speechmapper.objectives.base import Objective, Part
from speechmapper.objectives.contrastive import Contrastive
from speechmapper.objectives.cosine import Cosine
from speechmapper.objectives.ctc import AuxiliaryCTC, EmbeddingCTC
from speechmapper.objectives.distance import WeightedDistance
from speechmapper.objectives.vocabulary import Vocabulary
from speechmapper.projector import ProjectorConfig


@dataclass(frozen=True)
class Materials:
    """What parts are built from."""

    config: ObjectiveConfig
    targets: TargetSet
    projector: ProjectorConfig
    device: torch.device

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The embedding table on the device, once for all parts."""
        return Vocabulary(torch.from_numpy(self.targets.table).to(self.device), self.config.negatives)


def _distance(given: Materials, squared: bool) -> Part:
    config = given.config
    return WeightedDistance(config.alpha, config.reduction, given.targets.spec.table_scale, squared)


def _auxiliary_ctc(given: Materials) -> Part:
    sizes = given.projector
    first = Geometry((sizes.kernel_sizes[0],), (sizes.strides[0],), (sizes.paddings[0],))
    return AuxiliaryCTC(given.vocabulary, sizes.block_outputs[0], first)


PARTS: dict[str, Callable[[Materials], Part]] = {
    "mse": lambda given: _distance(given, squared=True),
    "l1": lambda given: _distance(given, squared=False),
    "cosine": lambda given: Cosine(),
    "contrastive": lambda given: Contrastive(
        given.vocabulary, given.targets.spec.pad_id, given.config.contrastive_temperature
    ),
    "ctc": _auxiliary_ctc,
    "ctc-embedding": lambda given: EmbeddingCTC(given.vocabulary, given.config.ctc_temperature),
}


def readout_of(name: str) -> str:
    """How vectors trained with an objective of this name are read: `nearest` row, or `ctc`."""
    return "ctc" if "ctc-embedding" in name.split("+") else "nearest"


def build_objective(
    config: ObjectiveConfig, targets: TargetSet, projector: ProjectorConfig, device: torch.device
) -> Objective:
    """The objective a configuration names, on `device`.

    Raises:
        ConfigError: an unknown part, one named twice, or an impossible setting.
    """
    given = Materials(config, targets, projector, device)
    names = config.name.split("+")
    for name in names:
        if name not in PARTS or names.count(name) > 1:
            raise ConfigError(f"objective.name {config.name!r}: join some of {', '.join(PARTS)} by +, each once")
    if len({"mse", "l1"} & set(names)) == 2 or not {"mse", "l1", "ctc-embedding"} & set(names):
        raise ConfigError(f"objective.name {config.name!r}: name one of mse and l1, or ctc-embedding")
    if readout_of(config.name) == "ctc" and projector.readout != "ctc":
        raise ConfigError(f"objective.name {config.name!r}: this projector was not trained with ctc-embedding")
    return Objective({name: (PARTS[name](given), config.weight(name)) for name in names}).to(device)
