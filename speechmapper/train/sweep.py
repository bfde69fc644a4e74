"""Several variants of stage 1 from one read of the store, and a table that compares them.

    sm-train sweep stage1 --alpha 5,7,9 --store S --out OUT
    OUT/alpha-5/ OUT/alpha-7/ OUT/alpha-9/     run folders, each as `sm-train stage1` would make it
    OUT/sweep.json                             the last figures of each: a list, one object per run
    --json                                     {"out": OUT, "runs": that list}

Every batch is read and copied to the device once; the projectors take their steps on it one after the other. Where
reading limits the speed, three alphas cost little more than one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sm_pipeline.console import print_json
from sm_store.durable import write_file
from sm_store.errors import ConfigError
from speechmapper.config import Stage1Config
from speechmapper.train.stage1 import Stage1Request, train_variants

SWEEP_FILE = "sweep.json"


def sweep_stage1(request: Stage1Request, alphas: Sequence[float]) -> list[dict[str, Any]]:
    """Train one run per alpha; returns the rows of the table, in the order of `alphas`.

    Args:
        request: as for a single run; `out` is the folder that will hold the runs.

    Raises:
        ConfigError: no alpha, or two whose runs would have the same folder. Else as `train_stage1`.
    """
    variants = {request.out / f"alpha-{alpha:g}": with_alpha(request.config, alpha) for alpha in alphas}
    if not alphas or len(variants) < len(alphas):
        raise ConfigError(
            f"--alpha {','.join(map(str, alphas))}: give different numbers, such as 5,7,9; they name the run folders, "
            "rounded to six digits"
        )
    outcomes = train_variants(request, variants)
    rows = [
        {"run": out.name, "alpha": alpha, **dataclasses.asdict(outcome)}
        for (out, alpha), outcome in zip(zip(variants, alphas, strict=True), outcomes, strict=True)
    ]
    write_file(request.out / SWEEP_FILE, json.dumps(rows, indent=1).encode() + b"\n")
    return rows


def with_alpha(config: Stage1Config, alpha: float) -> Stage1Config:
    """The same configuration with another alpha."""
    return dataclasses.replace(config, objective=dataclasses.replace(config.objective, alpha=alpha))


def print_rows(rows: Sequence[dict[str, Any]], out: Path, as_json: bool) -> None:
    """Print the table, or one JSON object `{"out": OUT, "runs": rows}`, on stdout."""
    if as_json:
        print_json({"out": str(out), "runs": list(rows)})
        return
    from rich.console import Console
    from rich.table import Table

    names = list(dict.fromkeys(name for row in rows for name in row["figures"]))
    table = Table("", *(str(row["run"]) for row in rows))
    table.add_row("steps", *(str(row["step"]) for row in rows))
    for name in names:
        table.add_row(name, *(f"{row['figures'][name]:.4g}" if name in row["figures"] else "" for row in rows))
    Console().print(table)
    Console().print(f"{out / SWEEP_FILE}", soft_wrap=True)
