"""The commands of `sm-pipeline` on existing stores: status, contents, verification, repair, conversion.

    $ sm-pipeline status corpus.store
    $ sm-pipeline verify corpus.store && sm-pipeline export corpus.store corpus.tars

`add_store_commands` adds them to the app of `cli.py`. torch is imported inside the commands that need it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sm_pipeline import config as settings
from sm_pipeline.console import print_json, print_report
from sm_pipeline.options import (
    AudioRootOption,
    DeviceOption,
    HtmlOption,
    JsonOption,
    LayoutOption,
    MovedManifestOption,
    OutStoreArgument,
    StoreArgument,
)
from sm_store.errors import RunFailed


def add_store_commands(app: typer.Typer) -> None:
    """Add every command of this module."""
    for command in (status, inspect, verify, repair, retry, export, merge):
        app.command()(command)


def status(
    store: StoreArgument,
    rejects: Annotated[bool, typer.Option("--rejects", help="List every rejected utterance.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what is done, missing and rejected, and why."""
    from sm_pipeline.pages.inspection import reject_lines, status_lines, store_status

    facts = store_status(store, with_rejects=rejects)
    if as_json:
        print_json(facts)
    else:
        typer.echo("\n".join([*status_lines(facts), *(reject_lines(facts) if rejects else [])]))


def inspect(store: StoreArgument, html: HtmlOption = None, as_json: JsonOption = False) -> None:
    """Show what is inside: identity, lengths, splits, languages, speakers, target sets."""
    from sm_pipeline.pages.inspection import inspect_lines, inspect_store

    if html is None:
        facts = inspect_store(store)
    else:
        from sm_pipeline.pages.store_page import write_page

        facts = write_page(store, html)
    if as_json:
        print_json(facts)
    else:
        typer.echo("\n".join(inspect_lines(facts)))


def verify(store: StoreArgument, as_json: JsonOption = False) -> None:
    """Read every byte and compare it with its checksum; exit 1 names each bad shard and record."""
    from sm_pipeline.whole_store import verify_store, verify_words

    report = verify_store(store)
    if as_json:
        print_json(report.to_json())
    else:
        for damage in report.damages:
            typer.echo(str(damage))
        typer.echo(f"{store}: {verify_words(report)}")
    if not report.ok:
        raise RunFailed(f"{store}: damaged in {len(report.damages)} places; `sm-pipeline repair {store}`")


def repair(
    store: StoreArgument,
    manifest: MovedManifestOption = None,
    audio_root: AudioRootOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Extract again what verify finds damaged, and nothing else; the bytes are the same as before."""
    from sm_pipeline.extraction.repair import repair as repair_store

    print_report(repair_store(store, manifest, device, audio_root), as_json)


def retry(
    store: StoreArgument,
    manifest: MovedManifestOption = None,
    audio_root: AudioRootOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Extract the rejected utterances again, and only those, for instance after their audio was repaired.

    Those that succeed go into new shards; those rejected again stay in the ledger as they were.
    """
    from sm_pipeline.extraction.retry import retry as retry_store

    print_report(retry_store(store, manifest, device, audio_root), as_json)


def export(
    store: StoreArgument, out: OutStoreArgument, layout: LayoutOption = "webdataset", as_json: JsonOption = False
) -> None:
    """Write the same store in the other format, bit for bit. Run again, it continues."""
    from sm_pipeline.whole_store import export_store

    print_report(export_store(store, out, layout), as_json)


def merge(
    out: OutStoreArgument,
    stores: Annotated[
        list[Path], typer.Argument(help="Folders (or URLs) of the stores, in the order of their shards.")
    ],
    layout: Annotated[
        settings.Layout | None, typer.Option("--format", help="Format of the shards. Default: the first store's.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="A target set to keep; repeatable. Default: all, which every store must have."),
    ] = None,
    features_only: Annotated[bool, typer.Option("--features-only", help="Keep no target sets.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Merge several stores of one encoder into one. Run again, it continues."""
    from sm_pipeline.whole_store import merge_stores

    print_report(merge_stores(out, stores, layout, [] if features_only else target), as_json)
