"""`speechmapper`: use a trained run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sm_pipeline.console import new_app, run
from sm_store.errors import InputError, one_line
from speechmapper.readout.options import BeamOption, HotwordsOption, HotwordWeightOption, search_of

app = new_app("speechmapper", "Listen with a trained projector and a frozen LLM.")


@app.command()
def transcribe(
    audio: Annotated[list[Path], typer.Argument(metavar="AUDIO...", help="Audio files.")],
    model: Annotated[Path, typer.Option(help="Run folder of `sm-train`.")],
    llm: Annotated[
        str | None,
        typer.Option(help="LLM that repeats the speech [default: the run's; nearest token after stage 1]."),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Where the run's encoder is now, if it has moved since extraction.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda[:N].")] = "auto",
    beam: BeamOption = None,
    hotwords: HotwordsOption = None,
    hotword_weight: HotwordWeightOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: path to text, null where it failed.")
    ] = False,
) -> None:
    """Write down what is said in audio files.

    Files that cannot be read are named on stderr, before anything is loaded if none can, and the exit code is 1.
    """
    search = search_of(beam, hotwords, hotword_weight)
    from speechmapper.model import SpeechMapper, unusable_files
    from speechmapper.saved_projector import projector_folder

    projector_folder(model)
    files = list(dict.fromkeys(audio))
    faults = unusable_files(files)
    if len(faults) == len(files):
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise InputError(f"{faults[files[0]]}{more}")
    mapper = SpeechMapper.from_pretrained(model, llm, encoder, device, search)
    texts: dict[Path, str] = {}
    for path in files:
        try:
            if path not in faults:
                texts[path] = mapper.transcribe(path)
        except InputError as error:
            faults[path] = one_line(error)
    if as_json:
        typer.echo(json.dumps({str(path): texts.get(path) for path in files}, ensure_ascii=False))
    else:
        for path in audio:
            if path in texts:
                typer.echo(texts[path] if len(audio) == 1 else f"{path}\t{texts[path]}")
    for fault in faults.values():
        typer.echo(f"error: {fault}", err=True)
    if faults:
        raise typer.Exit(InputError.exit_code if not texts else 1)


def main() -> None:
    """Entry point."""
    run(app)


if __name__ == "__main__":
    main()
