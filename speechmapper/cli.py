"""`speechmapper`: use a trained run.

    speechmapper transcribe talk.flac --model runs/stage2                       the dog ran home
    speechmapper transcribe talk.flac --model runs/stage2 --format srt          subtitles
    speechmapper translate *.wav --model runs/stage2 --to de                    one line per file: path, tab, text
    speechmapper ask talk.flac --model runs/stage2 --question "Who ran home?"

Files that cannot be read are named on stderr and do not end the rest: exit code 1, or 2 where no file could be used.
They are checked by their headers before anything is loaded; each is decoded once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sm_pipeline.console import new_app, progress, run
from sm_store.errors import ConfigError, InputError, one_line
from speechmapper.readout.options import BeamOption, HotwordsOption, HotwordWeightOption, search_of

if TYPE_CHECKING:
    from speechmapper.answers import Answer
    from speechmapper.readout.beam import BeamSearch
    from speechmapper.tasks import Item

app = new_app("speechmapper", "Listen with a trained projector and a frozen LLM.")


class Format(StrEnum):
    """How answers are printed."""

    TEXT = "text"
    JSON = "json"
    SRT = "srt"
    VTT = "vtt"


FilesArgument = Annotated[list[Path], typer.Argument(metavar="AUDIO...", help="Audio files.")]
ModelOption = Annotated[str, typer.Option("--model", help="Run folder of `sm-train`, saved model, or Hub id.")]
LlmOption = Annotated[
    str | None, typer.Option("--llm", help="LLM that writes [default: the run's; nearest token after stage 1].")
]
EncoderOption = Annotated[
    str | None, typer.Option("--encoder", help="Where the run's encoder is now, if it has moved since extraction.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda[:N].")]
FormatOption = Annotated[
    Format,
    typer.Option(
        "--format",
        help="text; json: one object, path to text, segments and times; srt and vtt: subtitles.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", help="Folder to write one file per recording into, in place of printing."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object: path to text, null where it failed.")]


@dataclass(frozen=True, slots=True)
class _Request:
    """What is asked about which files, and how it is shown."""

    task: str
    files: list[Path]
    model: str
    llm: str | None
    encoder: str | None
    device: str
    form: Format
    out: Path | None
    as_json: bool


@app.command()
def transcribe(
    audio: FilesArgument,
    model: ModelOption,
    llm: LlmOption = None,
    encoder: EncoderOption = None,
    device: DeviceOption = "auto",
    beam: BeamOption = None,
    hotwords: HotwordsOption = None,
    hotword_weight: HotwordWeightOption = None,
    form: FormatOption = Format.TEXT,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write down what is said in audio files.

    Files that cannot be read are named on stderr, before anything is loaded if none can, and the exit code is 1.
    """
    search = search_of(beam, hotwords, hotword_weight)
    _answer(_Request("asr", audio, model, llm, encoder, device, form, out, as_json), None, search)


@app.command()
def translate(
    audio: FilesArgument,
    model: ModelOption,
    to: Annotated[str, typer.Option("--to", help="Language of the translation: de, German, ...")],
    llm: LlmOption = None,
    encoder: EncoderOption = None,
    device: DeviceOption = "auto",
    form: FormatOption = Format.TEXT,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Translate what is said in audio files; needs an LLM."""
    request = _Request("st", audio, model, llm, encoder, device, form, out, as_json)
    _answer(request, lambda item: item(language=to))


@app.command()
def ask(
    audio: FilesArgument,
    model: ModelOption,
    question: Annotated[str, typer.Option("--question", help="What is asked about each file.")],
    llm: LlmOption = None,
    encoder: EncoderOption = None,
    device: DeviceOption = "auto",
    form: FormatOption = Format.TEXT,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer a question about what is said in audio files; needs an LLM."""
    if not question.strip():
        raise ConfigError("--question: it is empty; ask something")
    request = _Request("sqa", audio, model, llm, encoder, device, form, out, as_json)
    _answer(request, lambda item: item(values={"question": question}))


def _answer(request: _Request, item_of: Callable[[type[Item]], Item] | None, search: BeamSearch | None = None) -> None:
    """Answer about every file, print the answers and then what was wrong; ends with exit code 1 or 2 if anything was.

    Args:
        item_of: what is asked, given the class of items, which is not imported before it is needed.
    """
    files = list(dict.fromkeys(request.files))
    places = _places(request, files)
    from speechmapper.model import SpeechMapper
    from speechmapper.model.saved import find_model
    from speechmapper.tasks import Item

    find_model(request.model)
    faults, seconds = _checked(files)
    mapper = SpeechMapper.from_pretrained(request.model, request.llm, request.encoder, request.device, search)
    found: dict[Path, Answer] = {}
    item = item_of(Item) if item_of else None
    if request.out is not None:
        request.out.mkdir(parents=True, exist_ok=True)
    with progress(round(sum(seconds.values()), 1), "listening", "s of audio") as bar:
        for path, answer in zip(seconds, mapper.answers(request.task, seconds, item, advance=bar.advance), strict=True):
            if isinstance(answer, InputError):
                faults[path] = one_line(answer)
                continue
            found[path] = answer
            if path in places:  # at once, so that a run that is stopped has written what it had done
                places[path].write_text(_formatted(answer, request.form), encoding="utf-8")
    if not places:
        _show(request, found)
    for path in files:
        if path in faults:
            typer.echo(f"error: {faults[path]}", err=True)
    if faults:
        raise typer.Exit(1 if found else InputError.exit_code)


def _checked(files: list[Path]) -> tuple[dict[Path, str], dict[Path, float]]:
    """What is wrong with each file that is not audio, and about how many seconds each of the others has.

    Raises:
        InputError: none of them is audio.
    """
    from speechmapper.audio_features import require_audio_file

    faults: dict[Path, str] = {}
    seconds: dict[Path, float] = {}
    for path in files:
        try:
            seconds[path] = require_audio_file(path)
        except InputError as error:
            faults[path] = one_line(error)
    if not seconds:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise InputError(f"{faults[files[0]]}{more}")
    return faults, seconds


def _places(request: _Request, files: list[Path]) -> dict[Path, Path]:
    """Where the answer about each file is written; empty where they are printed.

    Raises:
        ConfigError: subtitles of several files on one stream, two files for one name, or two kinds of output.
    """
    form = Format.JSON if request.as_json else request.form
    if request.as_json and (request.out or request.form not in (Format.TEXT, Format.JSON)):
        raise ConfigError("--json prints one object; leave out --out and --format, or --json")
    if request.out is None:
        if len(files) > 1 and form in (Format.SRT, Format.VTT):
            raise ConfigError(f"--format {form}: subtitles are of one file; name a folder for several with --out")
        return {}
    suffix = {Format.TEXT: "txt"}.get(form, form.value)
    places: dict[Path, Path] = {}
    for path in files:
        place = request.out / f"{path.stem}.{suffix}"
        if place in places.values():
            raise ConfigError(f"--out {request.out}: {path} and another file would both be {place.name}; rename one")
        places[path] = place
    return places


def _show(request: _Request, found: dict[Path, Answer]) -> None:
    """Print the answers in the order of the files; in text, several files are a line each."""
    if request.as_json:
        texts = {str(path): found[path].text if path in found else None for path in request.files}
        typer.echo(json.dumps(texts, ensure_ascii=False))
    elif request.form == Format.JSON:
        answers = {str(path): found[path].to_json() if path in found else None for path in request.files}
        typer.echo(json.dumps(answers, ensure_ascii=False, indent=2))
    elif request.form == Format.TEXT:
        for path in request.files:
            if path in found:
                text = found[path].text
                typer.echo(text if len(request.files) == 1 else f"{path}\t{' '.join(text.splitlines())}")
    else:
        for answer in found.values():
            typer.echo(_formatted(answer, request.form), nl=False)


def _formatted(answer: Answer, form: Format) -> str:
    """One answer as a file of a format."""
    from speechmapper.subtitles import srt, vtt

    if form == Format.SRT:
        return srt(answer.segments)
    if form == Format.VTT:
        return vtt(answer.segments)
    if form == Format.JSON:
        return f"{json.dumps(answer.to_json(), ensure_ascii=False, indent=2)}\n"
    return f"{answer.text}\n"


def main() -> None:
    """Entry point."""
    run(app)


if __name__ == "__main__":
    main()
