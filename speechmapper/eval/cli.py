"""`sm-eval`: how good a run is."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from sm_pipeline.console import new_app, run
from speechmapper.config import NONE
from speechmapper.launch import EVALUATION, end_with_parent, is_main, run_processes
from speechmapper.readout.options import (
    BeamOption,
    HotwordsOption,
    HotwordWeightOption,
    QuantizeOption,
    llm_config_of,
    search_of,
)

app = new_app("sm-eval", "Evaluate a run: predictions.jsonl and metrics.json.")

NormalizerOption = Annotated[
    str | None,
    typer.Option(
        "--normalizer",
        help="Text normaliser of the error rates: mms-2, whisper or none. Default: the one the run was trained with.",
    ),
]
ByOption = Annotated[
    str | None,
    typer.Option("--by", metavar="COLUMN,...", help="Also by fields of the predictions: speaker, lang, corpus, ..."),
]
EntitiesOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Entities as tagged words (NEuRoparl-ST) [default: the manifest's, else guessed]."
    ),
]
TrainStoreOption = Annotated[
    str | None,
    typer.Option(metavar="STORE", help="The store of the training: entities by how often it has their words."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print metrics.json on stdout and nothing else.")]


RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of `sm-train`.")]
OutOption = Annotated[Path, typer.Option(help="Folder for predictions.jsonl and metrics.json.")]
StoreOption = Annotated[
    Path | None, typer.Option(help="Feature store with the utterances: a folder, or any fsspec URL.")
]
ManifestOption = Annotated[Path | None, typer.Option(help="Or a manifest: its audio goes through the run's encoder.")]
LlmOption = Annotated[
    str | None,
    typer.Option(help="The LLM that answers; without it, only asr, by the vectors' nearest tokens."),
]
HeadOption = Annotated[
    str | None,
    typer.Option(help="What the LLM is given: vectors, segments, rows, tokens or cif [default: as trained]."),
]
SplitOption = Annotated[str | None, typer.Option(help="Split to measure [default: test, where there are splits].")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda[:N].")]
NewTokensOption = Annotated[int, typer.Option(min=1, help="Longest answer of the LLM, in tokens.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Utterances run together.")]
TaskOption = Annotated[
    str | None, typer.Option("--task", metavar="FILE", help="Your own task, a YAML file, in place of this one.")
]
LanguagesOption = Annotated[
    str | None, typer.Option(metavar="L1,L2", help="Languages to translate into [default: all of the manifest's].")
]
CascadeOption = Annotated[
    str | None,
    typer.Option(
        metavar="reference|OUT",
        help="Give the LLM text in place of speech: the transcripts, or a recogniser's predictions (folder or file).",
    ),
]
WordingsOption = Annotated[
    str | None,
    typer.Option(metavar="all|N", help="Ask in so many wordings of the prompt: how much results depend on it."),
]
ProcessesOption = Annotated[
    int, typer.Option(min=1, help="Processes on this machine, one per GPU, that share the utterances.")
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Begin anew where --out has predictions already, unfinished ones too.")
]
CometOption = Annotated[
    str | None,
    typer.Option(
        "--comet",
        metavar="MODEL",
        help="COMET of translations, in an environment of its own: a Hub id (Unbabel/wmt22-comet-da) or a folder.",
    ),
]
CometEnvOption = Annotated[
    Path | None,
    typer.Option("--comet-env", help="Environment with unbabel-comet [default: made in the user's cache]."),
]
JudgeOption = Annotated[
    list[str] | None,
    typer.Option("--judge", metavar="LLM", help="LLM that judges answers to questions; repeats for several."),
]
DegradeOption = Annotated[
    str | None,
    typer.Option(
        metavar="STEP,...",
        help="Make the audio of --manifest worse first, in the order given: noise=10dB, babble=5dB, speed=1.1, "
        "codec=opus8k, reverb; seed=N changes what is drawn.",
    ),
]
EncoderOption = Annotated[
    str | None,
    typer.Option(help="With --manifest: where the run's encoder is, a folder or Hub id [default: as recorded]."),
]
LlmDtypeOption = Annotated[
    str, typer.Option("--llm-dtype", help="Precision that the LLM runs in: auto, float32, bfloat16 or float16.")
]
COMMANDS = {
    "asr": "Word and character error rate of a run.",
    "st": "BLEU and chrF of a run that translates speech; needs --llm.",
    "sqa": "Exact match and F1 of a run's answers to questions about speech; needs --llm.",
}


def evaluation(name: str, summary: str) -> None:
    """Add the command of a task."""

    def command(
        run_folder: RunArgument,
        out: OutOption,
        store: StoreOption = None,
        manifest: ManifestOption = None,
        llm: LlmOption = None,
        head: HeadOption = None,
        split: SplitOption = None,
        device: DeviceOption = "auto",
        batch: BatchOption = 32,
        processes: ProcessesOption = 1,
        max_new_tokens: NewTokensOption = 150,
        task: TaskOption = None,
        languages: LanguagesOption = None,
        beam: BeamOption = None,
        hotwords: HotwordsOption = None,
        hotword_weight: HotwordWeightOption = None,
        degrade: DegradeOption = None,
        encoder: EncoderOption = None,
        llm_dtype: LlmDtypeOption = "auto",
        quantize: QuantizeOption = NONE,
        cascade: CascadeOption = None,
        wordings: WordingsOption = None,
        normalizer: NormalizerOption = None,
        by: ByOption = None,
        overwrite: OverwriteOption = False,
        comet: CometOption = None,
        comet_env: CometEnvOption = None,
        judge: JudgeOption = None,
        as_json: JsonOption = False,
    ) -> None:
        search = search_of(beam, hotwords, hotword_weight)
        from speechmapper.tasks import chosen_task

        chosen = chosen_task(task or name, languages)
        from speechmapper.eval.breakdown import parse_columns
        from speechmapper.eval.degrade import parse_condition
        from speechmapper.eval.model_scores import requested_scores

        condition = None if degrade is None else parse_condition(degrade)
        if processes > 1:
            return run_processes(EVALUATION, processes, sys.argv[1:])
        from speechmapper.eval.questions import parse_wordings

        how_many = parse_wordings(wordings)
        from speechmapper.eval.predict import PredictRequest
        from speechmapper.eval.score import evaluate

        asked = partial(PredictRequest, run_folder, out, store, manifest, llm, split, device)
        ask = partial(asked, cascade=cascade, wordings=how_many)
        request = ask(max_new_tokens, batch, head, search, chosen, overwrite, condition, encoder, llm_dtype, quantize)
        models = requested_scores(comet, comet_env, judge, device)
        return _tell(evaluate(request, normalizer, parse_columns(by), models), out, as_json)

    app.command(name, help=summary)(command)


for _name, _summary in COMMANDS.items():
    evaluation(_name, _summary)


@app.command()
def score(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder with predictions.jsonl.")],
    normalizer: NormalizerOption = None,
    by: ByOption = None,
    entities: EntitiesOption = None,
    train_store: TrainStoreOption = None,
    comet: CometOption = None,
    comet_env: CometEnvOption = None,
    judge: JudgeOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Metrics again from predictions.jsonl; loads no model but COMET and judges, where they are named."""
    from speechmapper.eval.breakdown import parse_columns
    from speechmapper.eval.diagnosis import EntitySource
    from speechmapper.eval.model_scores import requested_scores
    from speechmapper.eval.score import score as score_again

    models = requested_scores(comet, comet_env, judge, device)
    source = EntitySource(entities, train_store)
    _tell(score_again(out, normalizer, parse_columns(by), source, models), out, as_json)


@app.command()
def report(
    outs: Annotated[
        list[str],
        typer.Argument(metavar="OUT...", help="Folders with predictions.jsonl and metrics.json, or NAME=OUT."),
    ],
    html: Annotated[Path | None, typer.Option(help="Page to write: one file that needs no other.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Tables to write, as Markdown.")] = None,
    latex: Annotated[Path | None, typer.Option(help="Tables to write, for LaTeX with booktabs.")] = None,
    manifest: Annotated[
        list[Path] | None, typer.Option(help="Manifest with the audio [default: the one each run was evaluated on].")
    ] = None,
    worst: Annotated[int, typer.Option(min=0, max=50, help="Worst utterances shown of each run.")] = 3,
    random: Annotated[int, typer.Option(min=0, max=50, help="Random utterances shown of each run.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the random utterances.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print runs and files as JSON and nothing else.")] = False,
) -> None:
    """Evaluations beside each other and beside published results, as one page or as tables; loads no model."""
    from speechmapper.eval.report.page import ReportRequest, write_report

    files = ReportRequest(outs, html, markdown, latex, tuple(manifest or ()), worst, random, seed)
    written = write_report(files)
    if as_json:
        typer.echo(json.dumps(written, ensure_ascii=False))
        return
    for flag in files.files():
        entry = written[flag.removeprefix("--")]
        runs = len(written["runs"])
        typer.echo(f"{runs} run{'s' if runs > 1 else ''}, {entry['bytes'] / 1e6:.2f} MB: {entry['path']}")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of an evaluation.")],
    second: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of another, of the same utterances.")],
    normalizer: NormalizerOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")] = False,
) -> None:
    """Differences of two evaluations of the same utterances, with 95 % intervals and p-values (paired bootstrap)."""
    from speechmapper.eval.compare import compare as compare_two
    from speechmapper.eval.compare_table import print_comparison

    found = compare_two(first, second, normalizer)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        print_comparison(found)


@app.command()
def eet(
    llm: Annotated[str, typer.Option(help="Whose threshold: a preset, folder or Hub id.")],
    out: Annotated[Path, typer.Option(help="Folder for eet.json and eet.html.")],
    texts: Annotated[Path | None, typer.Option(help="Texts to repeat, one a line [default: our own].")] = None,
    store: Annotated[Path | None, typer.Option(help="Or the transcripts of a feature store.")] = None,
    split: Annotated[str | None, typer.Option(help="Its split [default: dev, where there are splits].")] = None,
    utterances: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many texts.")] = 40,
    levels: Annotated[
        str | None, typer.Option(help="Relative MSEs, like 0,0.05,0.2 [default: nine from 0 to 1.1].")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How often the noise is drawn.")] = 3,
    batch: Annotated[int, typer.Option(min=1, help="Texts run together.")] = 50,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda[:N].")] = "auto",
    quantize: QuantizeOption = NONE,
    as_json: Annotated[bool, typer.Option("--json", help="Print eet.json on stdout and nothing else.")] = False,
) -> None:
    """How much error in its input embeddings an LLM tolerates."""
    how = llm_config_of(quantize)
    from speechmapper.eval.eet.curve import LEVELS, EetRequest, measure_eet, parse_levels
    from speechmapper.eval.eet.page import print_curve

    wanted = LEVELS if levels is None else parse_levels(levels)
    found = measure_eet(EetRequest(llm, out, texts, store, split, wanted, seeds, utterances, batch, device, how))
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        print_curve(found)


def _tell(metrics: dict[str, Any], out: Path, as_json: bool) -> None:
    if not is_main():
        return
    if as_json:
        typer.echo(json.dumps(metrics, ensure_ascii=False))
        return
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    shown = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
    typer.echo(f"{shown}  ({metrics.get('readout', 'predictions')}; {out / 'metrics.json'})")


def main() -> None:
    """Entry point."""
    end_with_parent()
    run(app)


if __name__ == "__main__":
    main()
