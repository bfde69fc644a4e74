"""The embedding error threshold of an LLM: how wrong an embedding may be before the LLM cannot repeat it.

    sm-eval eet --llm smollm2-135m --out eet       measures it, into eet/eet.json
    threshold = read_threshold(Path("eet"))        reads it; no torch
    threshold.require_table(spec)                  of this target set's LLM?
    threshold.relative_mse                         what a run's relative MSE is to come below

It is relative MSE: squared error per dimension over the mean square of the LLM's embedding table, as training
reports it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sm_store import TargetSpec
from sm_store.errors import ConfigError

EET_FILE = "eet.json"


@dataclass(frozen=True, slots=True)
class Threshold:
    """What eet.json says in short.

    Attributes:
        llm: id of the LLM, as it was named.
        table_sha256: fingerprint of its embedding table (`sm_store.targets.table_sha256`).
        relative_mse: the threshold.
        mse: the same, squared error per dimension.
        failed: False where no level was too much for the LLM, so that the threshold is a lower bound.
    """

    path: Path
    llm: str
    table_sha256: str
    relative_mse: float
    mse: float
    failed: bool

    def require_table(self, spec: TargetSpec) -> None:
        """Check that the threshold is that of the LLM a target set was made from.

        Raises:
            ConfigError: it was measured with another embedding table.
        """
        if spec.table_sha256 != self.table_sha256:
            raise ConfigError(
                f"{self.path}: the threshold of {self.llm}, whose embedding table is not that of target set "
                f"{spec.name} (made from {spec.llm}); measure that LLM with `sm-eval eet --llm {spec.llm}`"
            )


def read_threshold(path: Path) -> Threshold:
    """The threshold in an eet.json, given as the file or its folder.

    Raises:
        ConfigError: no such file, or not one that `sm-eval eet` wrote.
    """
    file = path / EET_FILE if path.is_dir() else path
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{file}: no threshold there ({error.strerror}); measure it with `sm-eval eet --llm L --out {file.parent}`"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{file}: not JSON; give the {EET_FILE} of `sm-eval eet`") from error
    try:
        found = data["threshold"]
        failed = found["first_failing"] is not None
        relative, mse = (_size(found[name]) for name in ("relative_mse", "mse"))
        llm, table = (_words(value) for value in (data["llm"]["id"], data["table_sha256"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{file}: not an {EET_FILE} of `sm-eval eet` ({error!r}); measure again") from error
    return Threshold(file, llm, table, relative, mse, failed)


def _size(value: Any) -> float:
    """A finite number of at least 0; raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{value!r} is no error size")
    return float(value)


def _words(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is no name")
    return value
