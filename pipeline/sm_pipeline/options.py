"""Arguments and options of `sm-pipeline`, each defined once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sm_pipeline import config as settings
from sm_pipeline.corpora import KINDS

ManifestArgument = Annotated[Path, typer.Argument(help="Manifest: a JSONL file with one utterance per line.")]
CorpusKindArgument = Annotated[
    str,
    typer.Argument(
        metavar="KIND",
        help=f"Kind of corpus: {', '.join(KINDS)}. nemo: its JSONL; lhotse: its cuts; hf: a folder written "
        "by `save_to_disk` of datasets. The text of spoken-squad is a recogniser's, not a transcript.",
    ),
]
CorpusArgument = Annotated[
    Path, typer.Argument(metavar="PATH", help="The unpacked corpus: the folder that holds its lists and audio.")
]
OutManifestArgument = Annotated[
    Path, typer.Argument(metavar="OUT.jsonl", help="The manifest to write; best inside or above the corpus.")
]
CorpusSplitOption = Annotated[
    str | None,
    typer.Option("--split", help="Only this split: train, dev, test or the corpus's own name of one."),
]
MovedManifestOption = Annotated[
    Path | None, typer.Option("--manifest", help="Where the manifest is now, if it was moved after the extraction.")
]
StoreArgument = Annotated[Path, typer.Argument(help="Folder of a store; to read it, any fsspec URL.")]
StoreOption = Annotated[Path, typer.Option("--store", help="Folder of the store; extract creates or continues it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
HtmlOption = Annotated[
    Path | None, typer.Option("--html", help="Also write a self-contained HTML page with figures to this file.")
]
OutStoreArgument = Annotated[Path, typer.Argument(help="Folder of the store to create or continue.")]
EncoderOption = Annotated[
    str,
    typer.Option(
        "--encoder",
        help="A folder, a Hub id (owner/name[@revision]) or the preset tiny-seamless: SeamlessM4T-v2, Whisper "
        "(append ?padding=none to its name to save the padding to 30 s), wav2vec 2.0, HuBERT, WavLM or w2v-BERT 2.0.",
    ),
]
LayerOption = Annotated[
    int | None,
    typer.Option("--layer", help="Encoder layer to tap, from 1. Default: the last (24 for seamless-m4t-v2-large)."),
]
AverageOption = Annotated[
    int, typer.Option("--average", help="Consecutive encoder frames averaged into one: 2 turns 50 Hz into 25 Hz.")
]
LlmOption = Annotated[
    str | None,
    typer.Option(
        "--llm",
        help="Also write this LLM's targets: a folder, a Hub id (owner/name[@revision]), a GGUF file, or the "
        "preset smollm2-135m. Only its tokenizer and embedding table are read.",
    ),
]
TargetsOption = Annotated[
    settings.TargetKind,
    typer.Option("--targets", help="dense: padded embeddings, fastest to train on. table: token ids, smallest store."),
]
PadOption = Annotated[
    str | None,
    typer.Option(
        "--pad-token",
        help="Token that fills the positions after the text. Default: the one known for the LLM family, else the "
        "tokenizer's, if its embedding is usable.",
    ),
]
LayoutOption = Annotated[settings.Layout, typer.Option("--format", help="Format of the shards.")]
EngineOption = Annotated[
    settings.Engine,
    typer.Option(
        "--engine",
        help="What runs the work. local: processes on this machine. slurm: the same, for this array task's share (see "
        "jobs/slurm). ray: actors of a running Ray cluster. The store is the same with each.",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        help="Number of worker processes; the store does not depend on it. Default: one per GPU, or one per CPU core.",
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
DtypeOption = Annotated[settings.StoreDtype, typer.Option("--dtype", help="Data type of the stored features.")]
CompressionOption = Annotated[
    str,
    typer.Option(
        help="none; zstd or blosc: lossless, about 10% smaller, slower to read; int8: lossy, half the size of float16."
    ),
]
ComputeDtypeOption = Annotated[
    str,
    typer.Option(
        "--compute-dtype", help="Precision of the encoder; auto: bfloat16 on a GPU that has it, else float32."
    ),
]
SplitOption = Annotated[str | None, typer.Option("--split", help="Use only the utterances of this split.")]
AudioRootOption = Annotated[
    Path | None,
    typer.Option("--audio-root", help="Folder that audio paths are relative to. Default: the manifest's folder."),
]
MaxRejectsOption = Annotated[
    int | None,
    typer.Option("--max-rejects", help="Fail if more utterances are rejected. Default: fail only if all are."),
]
MaxSecondsOption = Annotated[float, typer.Option("--max-seconds", help="Reject utterances that are longer.")]
BatchSecondsOption = Annotated[
    float | None,
    typer.Option(
        "--batch-seconds",
        help="Seconds of audio encoded at once, padding included. Default: 320 on a GPU (a batch that does not fit is "
        "split in half), 15 on a CPU.",
    ),
]
NumbersOption = Annotated[
    settings.Numbers | None,
    typer.Option(
        "--numbers",
        help="keep or remove words made of digits when texts are normalised, which the store records. Default: as the "
        "store does, keep in a new one.",
    ),
]
ShardOption = Annotated[int, typer.Option("--shard-utterances", help="Most utterances in a shard.")]
RateOption = Annotated[
    float | None,
    typer.Option("--rate", help="Hours of audio that a GPU encodes per hour, as extract reports it; gives GPU-hours."),
]
MeasureOption = Annotated[
    bool, typer.Option("--measure", help="Measure the rate: load the encoder and encode a sample of the corpus here.")
]
