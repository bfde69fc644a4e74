"""`sm-pipeline`: from speech corpora to feature stores. Parses, calls one function, prints.

    $ sm-pipeline demo-corpus corpus
    $ sm-pipeline extract corpus/manifest.jsonl --store corpus.store --encoder tiny-seamless
    $ sm-pipeline embed --store corpus.store --llm smollm2-135m
    $ sm-pipeline status corpus.store

torch is imported inside the commands that need it, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from sm_pipeline import config as settings
from sm_pipeline import console
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
    HtmlOption,
    JsonOption,
    LayerOption,
    LayoutOption,
    LlmOption,
    ManifestArgument,
    MaxRejectsOption,
    MaxSecondsOption,
    MeasureOption,
    MovedManifestOption,
    OutManifestArgument,
    OutStoreArgument,
    PadOption,
    RateOption,
    ShardOption,
    SplitOption,
    StoreArgument,
    StoreOption,
    TargetsOption,
    WorkersOption,
)
from sm_store.errors import ConfigError, RunFailed
from sm_store.version import __version__

app = typer.Typer(
    help="From speech corpora to feature stores: encode a corpus once, train projectors on it many times.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# -- commands --------------------------------------------------------------------------------------------


@app.callback(invoke_without_command=True)
def main_options(
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command("demo-corpus")
def demo_corpus(
    out: Annotated[Path, typer.Argument(help="Folder to write: audio/*.flac and manifest.jsonl.")],
    utterances: Annotated[int, typer.Option(help="How many, all splits together.")] = 1500,
    seed: Annotated[int, typer.Option(help="Another seed, other sentences and voices.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Synthesise a small spoken corpus to try things on (espeak-ng, several voices)."""
    from sm_pipeline.corpora.demo import write_demo_corpus

    counts = write_demo_corpus(out, utterances, seed)
    if as_json:
        _print_json({"manifest": str(out / "manifest.jsonl"), **counts})
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
    """List a corpus on disk as a manifest: JSONL, one utterance a line, which extract and plan read.

    Audio is not copied or opened: the manifest names the corpus's own files. Only audio that is no file of its
    own yet (inside a saved dataset, or a document in pieces) is written, beside OUT. What has no text or no
    audio is left out, and counted.
    """
    from sm_pipeline.corpora import make_manifest

    _report(make_manifest(kind, path, out, split), as_json)


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
    """Before any compute: hours, utterances, gigabytes, shards and GPU-hours of an extraction."""
    if rate is not None and measure:
        raise ConfigError("--rate: leave it out with --measure, which finds it out")
    if rate is not None and not 0 < rate < float("inf"):
        raise ConfigError(f"--rate {rate:g}: give hours of audio an hour, as extract reports them")
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

    _report(forecast(config, rate, measure), as_json)


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
    as_json: JsonOption = False,
) -> None:
    """Encode a corpus into a store. Run again, it continues; finished, it does nothing.

    An utterance that cannot be used (missing or broken audio, text too long for its audio, ...) goes to the
    store's reject ledger with its reason, and the run goes on.
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
    )
    _extract(config, as_json)


def _extract(config: settings.ExtractConfig, as_json: bool) -> None:
    from sm_pipeline.extraction.extract import extract, failure

    summary = extract(config)
    _report(summary, as_json)
    problem = failure(summary, config.max_rejects)
    if problem is not None:
        raise RunFailed(problem)


@app.command("embed")
def embed_targets(
    store: StoreOption,
    llm: Annotated[str, typer.Option(help="A folder, a Hub id (owner/name[@revision]), a GGUF file or a preset.")],
    targets: TargetsOption = "dense",
    name: Annotated[str | None, typer.Option(help="Of the target set. Default: made from --llm.")] = None,
    pad_token: PadOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add another LLM's targets to a store. Features are not touched. Run again, it continues."""
    config = settings.TargetConfig(llm, kind=targets, name=name, pad_token=pad_token)
    from sm_pipeline.extraction.embed import embed

    _report(embed(store, config), as_json)


@app.command()
def status(
    store: StoreArgument,
    rejects: Annotated[bool, typer.Option("--rejects", help="List every rejected utterance.")] = False,
    as_json: JsonOption = False,
) -> None:
    """What is done, missing and rejected, and why."""
    from sm_pipeline.pages.inspection import reject_lines, status_lines, store_status

    facts = store_status(store, with_rejects=rejects)
    if as_json:
        _print_json(facts)
    else:
        typer.echo("\n".join([*status_lines(facts), *(reject_lines(facts) if rejects else [])]))


@app.command()
def inspect(store: StoreArgument, html: HtmlOption = None, as_json: JsonOption = False) -> None:
    """What is inside: identity, lengths, splits, languages, speakers, target sets."""
    from sm_pipeline.pages.inspection import inspect_lines, inspect_store

    if html is None:
        facts = inspect_store(store)
    else:
        from sm_pipeline.pages.store_page import write_page

        facts = write_page(store, html)
    if as_json:
        _print_json(facts)
    else:
        typer.echo("\n".join(inspect_lines(facts)))


@app.command()
def verify(store: StoreArgument, as_json: JsonOption = False) -> None:
    """Read every byte and compare it with its checksum; exit 1 names each bad shard and record."""
    from sm_pipeline.pages.inspection import verify_store, verify_words

    report = verify_store(store)
    if as_json:
        _print_json(report.to_json())
    else:
        for damage in report.damages:
            typer.echo(str(damage))
        typer.echo(f"{store}: {verify_words(report)}")
    if not report.ok:
        raise RunFailed(f"{store}: damaged in {len(report.damages)} places; `sm-pipeline repair {store}`")


@app.command()
def repair(
    store: StoreArgument,
    manifest: MovedManifestOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Make again what verify finds bad, and nothing else, with the bytes it had."""
    from sm_pipeline.extraction.repair import repair as repair_store

    _report(repair_store(store, manifest, device), as_json)


@app.command()
def retry(
    store: StoreArgument,
    manifest: MovedManifestOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Extract rejected samples again, and only those: after their audio was mended, or the machine was.

    What is good now becomes shards of its own; what is rejected again stays in the ledger as it was.
    """
    from sm_pipeline.extraction.retry import retry as retry_store

    _report(retry_store(store, manifest, device), as_json)


@app.command()
def export(
    store: StoreArgument, out: OutStoreArgument, layout: LayoutOption = "webdataset", as_json: JsonOption = False
) -> None:
    """The same store in the other format, bit for bit. Run again, it continues."""
    from sm_pipeline.pages.inspection import export_store

    _report(export_store(store, out, layout), as_json)


@app.command()
def merge(
    out: OutStoreArgument,
    stores: Annotated[
        list[Path], typer.Argument(help="Folders (or URLs) of the stores, in the order of their shards.")
    ],
    layout: Annotated[
        settings.Layout | None, typer.Option("--format", help="Of the shards. Default: the first store's.")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="A target set to take along; repeatable. Default: all, if all have them.")
    ] = None,
    features_only: Annotated[bool, typer.Option("--features-only", help="Take no target sets along.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Several stores of one encoder as one. Run again, it continues."""
    from sm_pipeline.pages.inspection import merge_stores

    _report(merge_stores(out, stores, layout, [] if features_only else target), as_json)


def main() -> None:
    """Entry point of the console script."""
    console.run(app)


class Report(Protocol):
    """What a command reports."""

    def to_json(self) -> dict[str, Any]: ...

    def in_words(self) -> str: ...


def _report(report: Report, as_json: bool) -> None:
    if as_json:
        _print_json(report.to_json())
    else:
        typer.echo(report.in_words())


def _print_json(data: Mapping[str, Any]) -> None:
    json.dump(data, sys.stdout, ensure_ascii=False, indent=2, default=str)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
