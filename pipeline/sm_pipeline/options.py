"""Arguments and options of `sm-pipeline`, each once, by the field it fills."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sm_pipeline import config as settings
from sm_pipeline.corpora import KINDS

ManifestArgument = Annotated[Path, typer.Argument(help="Manifest: a JSONL file with one utterance a line.")]
CorpusKindArgument = Annotated[
    str,
    typer.Argument(
        metavar="KIND",
        help=f"Kind of corpus: {', '.join(KINDS)}. nemo is its JSONL, lhotse its cuts, hf a folder written by "
        "`save_to_disk` of datasets.",
    ),
]
CorpusArgument = Annotated[
    Path, typer.Argument(metavar="PATH", help="The corpus, unpacked: the folder that holds its lists and audio.")
]
OutManifestArgument = Annotated[
    Path, typer.Argument(metavar="OUT.jsonl", help="The manifest to write; best inside or above the corpus.")
]
CorpusSplitOption = Annotated[
    str | None,
    typer.Option("--split", help="Only this split: train, dev, test or the corpus's own name of one."),
]
MovedManifestOption = Annotated[
    Path | None, typer.Option("--manifest", help="Where the manifest lies now, if it was moved since the extraction.")
]
StoreArgument = Annotated[Path, typer.Argument(help="Folder of a store; to read it, any fsspec URL.")]
StoreOption = Annotated[Path, typer.Option("--store", help="Folder of the store; extract makes or continues it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
HtmlOption = Annotated[
    Path | None, typer.Option("--html", help="Write one page with figures too: a file that needs nothing else.")
]
OutStoreArgument = Annotated[Path, typer.Argument(help="Folder of the store to make or continue.")]
EncoderOption = Annotated[
    str,
    typer.Option(
        "--encoder",
        help="A folder, a Hub id (owner/name[@revision]) or the preset tiny-seamless: SeamlessM4T-v2, Whisper "
        "(?padding=none behind its name spares 30 s of padding), wav2vec 2.0, HuBERT, WavLM or w2v-BERT 2.0.",
    ),
]
LayerOption = Annotated[
    int | None,
    typer.Option("--layer", help="To tap, from 1. Default: the last, which is 24 of seamless-m4t-v2-large."),
]
AverageOption = Annotated[
    int, typer.Option("--average", help="Encoder frames averaged into one: 2 makes 25 a second of 50.")
]
LlmOption = Annotated[
    str | None,
    typer.Option(
        "--llm",
        help="Write this LLM's targets too: a folder, a Hub id (owner/name[@revision]), a GGUF file, or the "
        "preset smollm2-135m. Only its tokenizer and embedding table are read.",
    ),
]
TargetsOption = Annotated[
    settings.TargetKind,
    typer.Option("--targets", help="dense: padded embeddings, fastest to train on. table: token ids, smallest."),
]
PadOption = Annotated[
    str | None,
    typer.Option(
        "--pad-token",
        help="Fills the positions after the text. Default: the LLM family's known one, else the tokenizer's, "
        "if its embedding is sound.",
    ),
]
LayoutOption = Annotated[settings.Layout, typer.Option("--format", help="Of the shards.")]
EngineOption = Annotated[
    settings.Engine,
    typer.Option(
        "--engine",
        help="Who runs the work; local: processes here. slurm: this array task's share of it, by processes here; see "
        "jobs/slurm. ray: actors of a running Ray cluster. The store is the same.",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", help="Processes. Default: one a GPU, or one a CPU core; the store is the same."),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
DtypeOption = Annotated[settings.StoreDtype, typer.Option("--dtype", help="Of the stored features.")]
CompressionOption = Annotated[
    str,
    typer.Option(help="none; zstd, blosc: lossless, a tenth smaller, slower to read; int8: lossy, half of float16."),
]
ComputeDtypeOption = Annotated[
    str, typer.Option("--compute-dtype", help="Of the encoder; auto: bfloat16 on a GPU, else float32.")
]
SplitOption = Annotated[str | None, typer.Option("--split", help="Only the utterances of this split.")]
AudioRootOption = Annotated[
    Path | None,
    typer.Option("--audio-root", help="Folder that audio paths are relative to. Default: the manifest's own."),
]
MaxRejectsOption = Annotated[
    int | None,
    typer.Option("--max-rejects", help="Fail when more utterances are rejected. Default: only if all are."),
]
MaxSecondsOption = Annotated[float, typer.Option("--max-seconds", help="Reject longer utterances.")]
BatchSecondsOption = Annotated[
    float | None,
    typer.Option(
        "--batch-seconds",
        help="Seconds of audio encoded at once, padding included. Default: 320 on a GPU (a batch that does not fit is "
        "halved), 15 on a CPU.",
    ),
]
ShardOption = Annotated[int, typer.Option("--shard-utterances", help="Utterances in a shard at most.")]
RateOption = Annotated[
    float | None,
    typer.Option("--rate", help="Hours of audio a GPU encodes in an hour, as extract reports them: for GPU-hours."),
]
MeasureOption = Annotated[
    bool, typer.Option("--measure", help="Find the rate out: load the encoder and encode some of the corpus here.")
]
