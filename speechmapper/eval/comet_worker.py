"""Scores translations with COMET; executed by the Python of COMET's own environment, as a plain file.

    python -I comet_worker.py CHECKPOINT BATCH GPUS
    stdin    {"src": "The dog slept.", "mt": "Der Hund schlief.", "ref": "Der Hund hat geschlafen."}     one per line
    stdout   {"versions": {"unbabel-comet": "2.2.7", ...}}, then {"score": 0.93} for each line, in their order

It imports nothing of this project. Whatever the libraries print goes to stderr. Environment variables decide what may
be loaded: `TORCH_FORCE_WEIGHTS_ONLY_LOAD=1`, which the caller sets, refuses checkpoints that hold more than tensors
and plain values.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from importlib.metadata import version

PACKAGES = ("unbabel-comet", "transformers", "torch")
ABSENT_WEIGHTS = "Found keys that are in the model state dict but not in the checkpoint"


def main(checkpoint: str, batch: int, gpus: int) -> None:
    """Score the lines on stdin.

    Args:
        checkpoint: COMET's model.ckpt, in a folder `checkpoints` beside hparams.yaml.
        batch: segments run together. gpus: 0 for the CPU, else 1.
    """
    segments = [json.loads(line) for line in sys.stdin.buffer]
    out = os.dup(1)
    os.dup2(2, 1)
    from comet import load_from_checkpoint

    # Lightning only warns of weights that the checkpoint lacks and leaves them random.
    warnings.filterwarnings("error", message=ABSENT_WEIGHTS)
    model = load_from_checkpoint(checkpoint)
    found = model.predict(segments, batch_size=batch, gpus=gpus, progress_bar=False)
    lines = [{"versions": {name: version(name) for name in PACKAGES}}, *({"score": score} for score in found.scores)]
    with os.fdopen(out, "w", encoding="utf-8") as stdout:
        stdout.writelines(json.dumps(line) + "\n" for line in lines)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
