"""Extraction against the plain way: Hugging Face's feature extractor and encoder, batches in the order of the corpus.

python tests/bench/encoding.py [--layers 2] [--device cpu] [--utterances 192]

Real widths of SeamlessM4T-v2-large, random weights, lengths as in LibriSpeech. Few layers, so that a CPU gets through;
a GPU takes all 24. Both ways read FLAC and keep float16 features averaged 2:1 on disk.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from rich.console import Console
from rich.table import Table
from transformers import SeamlessM4TFeatureExtractor, SeamlessM4Tv2Config
from transformers.models.seamless_m4t_v2.modeling_seamless_m4t_v2 import SeamlessM4Tv2SpeechEncoder

from sm_pipeline.encoders import load_encoder
from sm_pipeline.encoders.frontend import FilterBank
from tests.speech import librispeech_seconds, tone, write_lines

RATE = 16_000
LONG = 30.0  # seconds, of the encoder's bar
PLAIN_BATCH = 8
UTTERANCES, SHARD_UTTERANCES = 192, 32
FRONT_END_ROUNDS, ENCODER_ROUNDS = 5, 3


def write_checkpoint(folder: Path, layers: int, width: int = 1024) -> Path:
    """A SeamlessM4T-v2 speech encoder of random weights, as `save_pretrained` writes it."""
    config = SeamlessM4Tv2Config(
        hidden_size=width,
        speech_encoder_layers=layers,
        speech_encoder_intermediate_size=4 * width,
        add_adapter=False,
    )
    torch.manual_seed(0)
    SeamlessM4Tv2SpeechEncoder(config).save_pretrained(folder)
    SeamlessM4TFeatureExtractor().save_pretrained(folder)
    return folder


def write_corpus(folder: Path, utterances: int) -> Path:
    """FLAC files of LibriSpeech's lengths, in random order; returns the manifest."""
    folder.mkdir(parents=True)
    lines = []
    for number, seconds in enumerate(librispeech_seconds(utterances).tolist()):
        soundfile.write(folder / f"{number}.flac", tone(seconds, seed=number), RATE)
        lines.append({"id": f"u{number}", "audio": f"{number}.flac", "text": "a", "duration": round(seconds, 3)})
    return write_lines(folder / "manifest.jsonl", lines)


def plain_model(checkpoint: Path, device: str, dtype: torch.dtype) -> SeamlessM4Tv2SpeechEncoder:
    return SeamlessM4Tv2SpeechEncoder.from_pretrained(checkpoint, dtype=dtype).to(device).eval()


@torch.inference_mode()
def plain_extract(manifest: Path, checkpoint: Path, out: Path, device: str, dtype: torch.dtype) -> float:
    """The loop one would write; returns its seconds, without loading the model."""
    extractor, model = SeamlessM4TFeatureExtractor(), plain_model(checkpoint, device, dtype)
    out.mkdir()
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    began = time.perf_counter()
    for at in range(0, len(lines), PLAIN_BATCH):
        batch = lines[at : at + PLAIN_BATCH]
        waves = [soundfile.read(manifest.parent / line["audio"], dtype="float32")[0] for line in batch]
        inputs = extractor(waves, sampling_rate=RATE, return_tensors="pt").to(device)
        projected = model.feature_projection(inputs["input_features"].to(dtype))
        hidden = model.encoder(projected, attention_mask=inputs["attention_mask"])
        for line, row, frames in zip(batch, hidden, inputs["attention_mask"].sum(1), strict=True):
            pairs = row[: frames // 2 * 2].reshape(frames // 2, 2, -1).mean(1)
            np.save(out / f"{line['id']}.npy", pairs.to("cpu", torch.float16).numpy())
    return time.perf_counter() - began


def our_extract(manifest: Path, checkpoint: Path, store: Path, device: str) -> dict[str, Any]:
    """What `sm-pipeline extract` reports; the encoder's first loading is not counted, as in the plain way."""
    command = [Path(sys.executable).parent / "sm-pipeline", "extract", manifest, "--store", store, "--json"]
    settings = ["--encoder", checkpoint, "--device", device, "--shard-utterances", str(SHARD_UTTERANCES)]
    done: dict[str, Any] = json.loads(subprocess.run([*command, *settings], check=True, stdout=subprocess.PIPE).stdout)
    return done


def seconds_of(*calls: Callable[[], object], rounds: int) -> list[float]:
    """Least seconds of each call, in turns; a GPU's work is waited for."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 1):  # the first warms up
        for call, times in zip(calls, taken, strict=True):
            began = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
    return [min(times[1:]) for times in taken]


def front_end(device: str, waves: Sequence[np.ndarray]) -> tuple[float, float]:
    """x real time of Hugging Face's filter banks and of ours."""
    extractor = SeamlessM4TFeatureExtractor()
    bank = FilterBank(extractor, torch.device(device))
    total = sum(map(len, waves)) / RATE
    slow, fast = seconds_of(
        lambda: extractor(list(waves), sampling_rate=RATE, return_tensors="pt"),
        lambda: bank(waves),
        rounds=FRONT_END_ROUNDS,
    )
    return total / slow, total / fast


@torch.inference_mode()
def encoder(checkpoint: Path, device: str, dtype: torch.dtype, seconds: float) -> tuple[float, float, bool]:
    """x real time of Hugging Face's encoder and of ours on two utterances, and whether the bits are the same."""
    model = plain_model(checkpoint, device, dtype)
    ours = load_encoder(str(checkpoint), device=device, dtype=str(dtype).removeprefix("torch."))
    waves = [tone(seconds, seed=1), tone(seconds - 1, seed=2)]
    inputs, mask = FilterBank(SeamlessM4TFeatureExtractor(), torch.device(device))(waves)

    def plain() -> torch.Tensor:
        hidden = model.encoder(model.feature_projection(inputs.to(dtype)), attention_mask=mask)
        return hidden.float() * mask.unsqueeze(-1)

    same = torch.equal(plain(), ours.encode(waves)[0])
    slow, fast = seconds_of(plain, lambda: ours.encode(waves), rounds=ENCODER_ROUNDS)
    total = sum(map(len, waves)) / RATE
    return total / slow, total / fast, same


def measure(folder: Path, device: str, layers: int, utterances: int) -> Table:
    """The three comparisons as a table."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    logging.disable(logging.WARNING)
    checkpoint = write_checkpoint(folder / "encoder", layers)
    manifest = write_corpus(folder / "corpus", utterances)
    waves = [soundfile.read(path, dtype="float32")[0] for path in sorted(manifest.parent.glob("*.flac"))[:PLAIN_BATCH]]
    rows = [("filter banks", *front_end(device, waves), "")]
    plain, ours, same = encoder(checkpoint, device, dtype, LONG)
    rows.append((f"encoder, {LONG:.0f} s, {layers} layers", plain, ours, "same bits" if same else "other bits"))
    slow = plain_extract(manifest, checkpoint, folder / "plain", device, dtype)
    done = our_extract(manifest, checkpoint, folder / "store", device)
    remark = f"{done['padding']:.0%} padding, {done['workers']} workers"
    rows.append(("whole extraction", done["hours"] * 3600 / slow, done["x_realtime"], remark))
    table = Table(title=f"Extraction, {device}, {str(dtype).removeprefix('torch.')}: x real time")
    for column in ("", "Hugging Face", "this project", "ratio", ""):
        table.add_column(column, justify="left" if not column else "right")
    for name, slow, fast, remark in rows:
        table.add_row(name, f"{slow:.1f}", f"{fast:.1f}", f"{fast / slow:.2f}", remark)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--utterances", type=int, default=UTTERANCES)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        Console(file=sys.stdout).print(measure(Path(scratch), options.device, options.layers, options.utterances))


if __name__ == "__main__":
    main()
