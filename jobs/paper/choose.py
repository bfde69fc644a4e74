"""The run of a sweep with the lowest mean word error rate over the evaluation sets, as a link.

python jobs/paper/choose.py work/llama/ood work/llama/stage1 work/llama/chosen

work/llama/ood/alpha-5/fleurs/metrics.json  alpha-5/voxpopuli/metrics.json  alpha-7/...     what is compared
work/llama/chosen -> stage1/alpha-5                                                         what comes out
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from statistics import mean


def main() -> None:
    evaluations, runs, link = map(Path, sys.argv[1:])
    error_rates = {
        run.name: mean(json.loads(path.read_text(encoding="utf-8"))["wer"] for path in run.glob("*/metrics.json"))
        for run in sorted(evaluations.iterdir())
    }
    best = min(error_rates, key=lambda name: error_rates[name])
    new = link.with_name(f"{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(os.path.relpath(runs / best, link.parent))
    new.replace(link)
    shown = ", ".join(f"{name} {rate:.4f}" for name, rate in error_rates.items())
    sys.stdout.write(f"{best} is chosen; mean WER: {shown}\n")


if __name__ == "__main__":
    main()
