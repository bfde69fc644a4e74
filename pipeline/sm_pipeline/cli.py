"""`sm-pipeline`: from speech corpora to feature stores. Parses, calls one function, prints.

    $ sm-pipeline demo-corpus corpus
    $ sm-pipeline extract corpus/manifest.jsonl --store corpus.store --encoder tiny-seamless
    $ sm-pipeline embed --store corpus.store --llm smollm2-135m
    $ sm-pipeline status corpus.store                 this and the other commands on a store: store_cli.py

torch is imported inside the commands that need it, so that `--help` is fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sm_pipeline import config as settings
from sm_pipeline.console import new_app, print_json, print_report, run
from sm_pipeline.options import (
    AudioRootOption,
    AverageOption,
    BatchSecondsOption,
    CompressionOption,
    ComputeDtypeOption,
    CorpusArgument,
    CorpusKindArgument,
    CorpusSplitOption,
    DeviceOption,
    DtypeOption,
    EncoderOption,
    EngineOption,
    JsonOption,
    LayerOption,
    LayoutOption,
    LlmOption,
    ManifestArgument,
    MaxRejectsOption,
    MaxSecondsOption,
    MeasureOption,
    NumbersOption,
    OutManifestArgument,
    PadOption,
    RateOption,
    ShardOption,
    SplitOption,
    StoreOption,
    TargetsOption,
    WorkersOption,
)
from sm_pipeline.store_cli import add_store_commands
from sm_store.errors import ConfigError, RunFailed
from sm_store.space import writing

app = new_app(
    "sm-pipeline", "From speech corpora to feature stores: encode a corpus once, train projectors on it many times."
)


@app.command("demo-corpus")
def demo_corpus(
    out: Annotated[Path, typer.Argument(help="Folder to write: audio/*.flac and manifest.jsonl.")],
    utterances: Annotated[int, typer.Option(help="Utterances of all splits together.")] = 1500,
    seed: Annotated[int, typer.Option(help="Seed of the sentences and voices.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Synthesise a small spoken corpus for trying things out (espeak-ng, several voices)."""
    from sm_pipeline.corpora.demo import write_demo_corpus

    with writing(out):
        counts = write_demo_corpus(out, utterances, seed)
    if as_json:
        print_json({"manifest": str(out / "manifest.jsonl"), **counts})
    else:
        splits = ", ".join(f"{name} {value:g}" for name, value in counts.items() if name != "hours")
        typer.echo(f"{out / 'manifest.jsonl'}: {splits}; {counts['hours']:.2f} hours")


@app.command()
def manifest(
    kind: CorpusKindArgument,
    path: CorpusArgument,
    out: OutManifestArgument,
    split: CorpusSplitOption = None,
    as_json: JsonOption = False,
) -> None:
    """List a corpus on disk as a manifest: JSONL, one utterance per line, which extract and plan read.

    Audio is neither copied nor opened: the manifest names the corpus's own files. Only audio that is not a file
    yet (inside a saved dataset, or a document in pieces) is written, beside OUT. Rows without text or audio are
    left out and counted.
    """
    from sm_pipeline.corpora import make_manifest

    print_report(make_manifest(kind, path, out, split), as_json)


@app.command()
def plan(
    manifest: ManifestArgument,
    encoder: EncoderOption = settings.DEFAULT_ENCODER,
    average: AverageOption = 2,
    llm: LlmOption = None,
    targets: TargetsOption = "dense",
    layout: LayoutOption = "zarr",
    dtype: DtypeOption = "float16",
    compression: CompressionOption = "none",
    split: SplitOption = None,
    audio_root: AudioRootOption = None,
    max_seconds: MaxSecondsOption = settings.MAX_SECONDS,
    shard_utterances: ShardOption = settings.UNIT_UTTERANCES,
    rate: RateOption = None,
    measure: MeasureOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Estimate an extraction before it runs: hours, utterances, gigabytes, shards and GPU-hours."""
    if rate is not None and measure:
        raise ConfigError("--rate: leave it out with --measure, which measures it")
    if rate is not None and not 0 < rate < float("inf"):
        raise ConfigError(f"--rate {rate:g}: give hours of audio per hour, as extract reports them")
    config = settings.ExtractConfig(
        manifest,
        Path("unused"),
        encoder=encoder,
        average=average,
        targets=settings.TargetConfig(llm, kind=targets) if llm is not None else None,
        layout=layout,
        dtype=dtype,
        compression=compression,
        split=split,
        audio_root=audio_root,
        max_seconds=max_seconds,
        shard_utterances=shard_utterances,
        device=device,
    )
    from sm_pipeline.extraction.forecast import forecast

    print_report(forecast(config, rate, measure), as_json)


@app.command()
def extract(
    manifest: ManifestArgument,
    store: StoreOption,
    encoder: EncoderOption = settings.DEFAULT_ENCODER,
    layer: LayerOption = None,
    average: AverageOption = 2,
    llm: LlmOption = None,
    targets: TargetsOption = "dense",
    pad_token: PadOption = None,
    layout: LayoutOption = "zarr",
    engine: EngineOption = "local",
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float16",
    compression: CompressionOption = "none",
    compute_dtype: ComputeDtypeOption = "auto",
    split: SplitOption = None,
    audio_root: AudioRootOption = None,
    max_rejects: MaxRejectsOption = None,
    max_seconds: MaxSecondsOption = settings.MAX_SECONDS,
    batch_seconds: BatchSecondsOption = None,
    shard_utterances: ShardOption = settings.UNIT_UTTERANCES,
    numbers: NumbersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Encode a corpus into a store. Run again, it continues; a finished store is left as it is.

    An utterance that cannot be used (broken audio, text too long, ...) goes to the reject ledger with its reason.
    """
    if llm is None and pad_token is not None:
        raise ConfigError("--pad-token: needs --llm, whose token it names")
    config = settings.ExtractConfig(
        manifest,
        store,
        encoder=encoder,
        layer=layer,
        average=average,
        targets=settings.TargetConfig(llm, kind=targets, pad_token=pad_token) if llm is not None else None,
        layout=layout,
        dtype=dtype,
        compression=compression,
        engine=engine,
        workers=workers,
        device=device,
        compute_dtype=compute_dtype,
        split=split,
        audio_root=audio_root,
        max_rejects=max_rejects,
        max_seconds=max_seconds,
        batch_seconds=batch_seconds,
        shard_utterances=shard_utterances,
        numbers=numbers,
    )
    from sm_pipeline.extraction.extract import extract as extract_corpus

    summary = extract_corpus(config)
    print_report(summary, as_json)
    problem = summary.failure(config.max_rejects)
    if problem is not None:
        raise RunFailed(problem)


@app.command("embed")
def embed_targets(
    store: StoreOption,
    llm: Annotated[str, typer.Option(help="A folder, a Hub id (owner/name[@revision]), a GGUF file or a preset.")],
    targets: TargetsOption = "dense",
    name: Annotated[str | None, typer.Option(help="Name of the target set. Default: made from --llm.")] = None,
    pad_token: PadOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add another LLM's targets to a store. Features are not touched. Run again, it continues."""
    config = settings.TargetConfig(llm, kind=targets, name=name, pad_token=pad_token)
    from sm_pipeline.extraction.embed import embed

    print_report(embed(store, config), as_json)


add_store_commands(app)


def main() -> None:
    """Entry point of the console script."""
    run(app)


if __name__ == "__main__":
    main()
