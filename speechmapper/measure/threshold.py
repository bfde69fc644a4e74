"""The embedding error threshold of an LLM: how much error in its input embeddings it tolerates.

    sm-eval eet --llm smollm2-135m --out eet       measures it and writes eet/eet.json
    threshold = read_threshold(Path("eet"))        reads it, without torch
    threshold.require_table(spec)                  checks that it belongs to the LLM of this target set
    threshold.relative_mse                         the value that a run's relative MSE should fall below

Relative MSE is the squared error per dimension divided by the mean square of the LLM's embedding table, as training
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
    """The threshold in an eet.json.

    Attributes:
        path: the file.
        llm: id of the LLM, as given to `sm-eval eet`.
        table_sha256: fingerprint of its embedding table (`sm_store.targets.table_sha256`).
        relative_mse: the threshold.
        mse: the same threshold as squared error per dimension.
        failed: False if the LLM tolerated every level, which makes the threshold a lower bound.
    """

    path: Path
    llm: str
    table_sha256: str
    relative_mse: float
    mse: float
    failed: bool

    def require_table(self, spec: TargetSpec) -> None:
        """Check that the threshold belongs to the LLM that a target set was made from.

        Raises:
            ConfigError: it was measured with another embedding table.
        """
        if spec.table_sha256 != self.table_sha256:
            raise ConfigError(
                f"{self.path}: this is the threshold of {self.llm}, whose embedding table is not that of target set "
                f"{spec.name} (made from {spec.llm}); measure that LLM with `sm-eval eet --llm {spec.llm}`"
            )


def read_threshold(path: Path) -> Threshold:
    """The threshold in an eet.json; `path` is the file or its folder.

    Raises:
        ConfigError: no such file, or not a file of `sm-eval eet`.
    """
    file = path / EET_FILE if path.is_dir() else path
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{file}: cannot be read ({error.strerror}); "
            f"measure the threshold with `sm-eval eet --llm L --out {file.parent}`"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{file}: not JSON; give the {EET_FILE} of `sm-eval eet`") from error
    try:
        found = data["threshold"]
        failed = found["first_failing"] is not None
        relative, mse = (_error_size(found[name]) for name in ("relative_mse", "mse"))
        llm, table = (_nonempty(value) for value in (data["llm"]["id"], data["table_sha256"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{file}: not an {EET_FILE} of `sm-eval eet` ({error!r}); measure it again") from error
    return Threshold(file, llm, table, relative, mse, failed)


def _error_size(value: Any) -> float:
    """A finite number of at least 0; raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{value!r} is not a finite number of at least 0")
    return float(value)


def _nonempty(value: Any) -> str:
    """The value if it is a string that is not empty; raises ValueError."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not a non-empty string")
    return value
