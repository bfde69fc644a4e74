"""`speechmapper`: use a trained run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sm_pipeline.console import new_app, run

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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object: path to text.")] = False,
) -> None:
    """Write down what is said in audio files."""
    from speechmapper.model import SpeechMapper

    mapper = SpeechMapper.from_pretrained(model, llm, encoder, device)
    texts = {str(path): mapper.transcribe(path) for path in audio}
    if as_json:
        typer.echo(json.dumps(texts, ensure_ascii=False))
        return
    for path, text in texts.items():
        typer.echo(text if len(texts) == 1 else f"{path}\t{text}")


def main() -> None:
    """Entry point."""
    run(app)


if __name__ == "__main__":
    main()
