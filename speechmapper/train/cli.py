"""`sm-train`: the two stages of training."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sm_pipeline.console import new_app, print_json, run
from speechmapper import config_help
from speechmapper.config_file import PRESETS, TUNING_PRESETS, layers_of, load_stage1, load_stage2
from speechmapper.launch import TRAINING, end_with_parent, is_main, run_processes
from speechmapper.train.vary import ALPHA, SIGMA, parse_axes, stage1_variants, stage2_variants

if TYPE_CHECKING:
    from speechmapper.train.run import Outcome

app = new_app("sm-train", "Train a projector: stage 1 on text embeddings alone, stage 2 with a frozen LLM.")

StoreOption = Annotated[
    list[Path],
    typer.Option(
        help="Feature store, as `sm-pipeline extract` writes it: a folder, or any fsspec URL. Repeatable: several are "
        "read as one, in this order.",
    ),
]
OutOption = Annotated[
    Path, typer.Option(help="Run folder to write: config.yaml, metrics.jsonl, projector/, checkpoints/.")
]
TargetOption = Annotated[
    str | None,
    typer.Option(help="Target set of the store, by its name in one of them; required where there are several."),
]
SplitOption = Annotated[str | None, typer.Option(help="Split to train on [default: train, if there are splits].")]
PresetOption = Annotated[str | None, typer.Option(help=f"Named settings: {', '.join(PRESETS)}.")]
TuningPresetOption = Annotated[
    str | None,
    typer.Option(help=f"Named settings: {', '.join(PRESETS)}, and of stage 2 alone {', '.join(TUNING_PRESETS)}."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(help="YAML settings that override the preset's; a run's config.yaml is such a file."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="One setting that overrides preset and file: optimizer.lr=1e-4. Repeatable.",
    ),
]
ResumeOption = Annotated[
    bool,
    typer.Option("--resume", help="Continue from the newest checkpoint in --out; start a new run where there is none."),
]
ProcessesOption = Annotated[
    int,
    typer.Option(min=1, help="Processes on this machine, one per GPU; for more machines use `accelerate launch`."),
]
ProjectorOption = Annotated[Path, typer.Option(help="Run folder of the projector to start from.")]
LlmOption = Annotated[str, typer.Option(help="The LLM, frozen: folder, Hub id[@revision] or preset (smollm2-135m).")]
TaskOption = Annotated[
    str | None,
    typer.Option(
        help="asr, st, sqa, mix, a task's YAML file, or rates such as asr=0.5,sqa=0.5 (short for --set "
        "tuning.task=...) [default: asr]."
    ),
]
VaryOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=V1,V2",
        help="A setting and its values: optimizer.lr=1e-4,1e-3 or 'optimizer.betas=[0.9,0.98],[0.9,0.99]'. "
        "Repeatable: all combinations are trained.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the outcome as one JSON object on stdout.")]


@app.command()
def stage1(
    store: StoreOption,
    out: OutOption,
    target: TargetOption = None,
    split: SplitOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    resume: ResumeOption = False,
    processes: ProcessesOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Pre-train a projector to predict text embeddings from speech features. Never loads an LLM."""
    resolved = load_stage1(preset, config, settings or [])
    if processes > 1:
        return run_processes(TRAINING, processes, sys.argv[1:])
    from speechmapper.train.stage1 import Stage1Request, train_stage1

    return _print_outcome(train_stage1(Stage1Request(store, out, resolved, target, split, resume)), out, as_json)


@app.command()
def stage2(
    store: StoreOption,
    projector: ProjectorOption,
    llm: LlmOption,
    out: OutOption,
    task: TaskOption = None,
    languages: Annotated[
        str | None,
        typer.Option(metavar="L1,L2", help="Languages to translate into (--set tuning.languages=...) [default: all]."),
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option(help="Weight of the embedding loss, 0 to 1 (--set tuning.sigma=...) [default: 0.9]."),
    ] = None,
    target: TargetOption = None,
    split: SplitOption = None,
    preset: TuningPresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    resume: ResumeOption = False,
    processes: ProcessesOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Adapt a projector to a frozen LLM: cross-entropy of its answers, mixed with the stage 1 loss."""
    named = [f"tuning.{key}={value}" for key, value in (("task", task), ("sigma", sigma)) if value is not None]
    if languages is not None:
        named.append(f"tuning.languages={json.dumps(_names(languages))}")  # quoted: YAML reads Norwegian as false
    resolved = load_stage2(preset, config, [*named, *(settings or [])])
    if processes > 1:
        return run_processes(TRAINING, processes, sys.argv[1:])
    from speechmapper.train.stage2 import Stage2Request, train_stage2

    request = Stage2Request(store, projector, llm, out, resolved, target, split, resume)
    return _print_outcome(train_stage2(request), out, as_json)


@app.command()
def keys(as_json: JsonOption = False) -> None:
    """List every setting of --set and --config with its default and what it means."""
    print_json(config_help.to_json()) if as_json else typer.echo(config_help.in_words())


sweep = typer.Typer(no_args_is_help=True, help="Several runs that differ in some settings, and a table of them.")
app.add_typer(sweep, name="sweep")


@sweep.command("stage1")
def sweep_stage1(
    store: StoreOption,
    out: Annotated[Path, typer.Option(help="Folder to write: one run folder per run, and sweep.json.")],
    vary: VaryOption = None,
    alpha: Annotated[str | None, typer.Option(help="Short for --vary objective.alpha=...: 5,7,9.")] = None,
    llm: Annotated[
        str | None,
        typer.Option(help="An LLM that reads the validation utterances of every run, after the training: dev_llm_wer."),
    ] = None,
    target: TargetOption = None,
    split: SplitOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    resume: ResumeOption = False,
    processes: ProcessesOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Stage 1 with several values of some settings; runs with the same batches share each read of the store."""
    axes = parse_axes([*([f"{ALPHA}={_numbers(alpha, '--alpha')}"] if alpha is not None else []), *(vary or [])])
    variants = stage1_variants(layers_of("stage1", preset, config, settings or []), axes)
    if processes > 1:
        run_processes(TRAINING, processes, sys.argv[1:])
        return
    from speechmapper.train.sweep import SweepRequest, require_success, sweep_stage1
    from speechmapper.train.sweep_table import print_rows

    rows = sweep_stage1(SweepRequest(store, out, variants, target, split, resume, llm))
    if is_main():
        print_rows(rows, out, as_json)
    require_success(rows)


@sweep.command("stage2")
def sweep_stage2(
    store: StoreOption,
    projector: ProjectorOption,
    llm: LlmOption,
    out: Annotated[Path, typer.Option(help="Folder to write: one run folder per run, and sweep.json.")],
    sigma: Annotated[str | None, typer.Option(help="Short for --vary tuning.sigma=...: 0,0.5,0.9.")] = None,
    vary: VaryOption = None,
    task: TaskOption = None,
    target: TargetOption = None,
    split: SplitOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    resume: ResumeOption = False,
    processes: ProcessesOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Stage 2 with several values of some settings; one LLM is loaded, and runs with the same batches share them."""
    axes = parse_axes([*([f"{SIGMA}={_numbers(sigma, '--sigma')}"] if sigma is not None else []), *(vary or [])])
    named = [f"tuning.task={task}"] if task is not None else []
    variants = stage2_variants(layers_of("stage2", preset, config, [*named, *(settings or [])]), axes)
    if processes > 1:
        run_processes(TRAINING, processes, sys.argv[1:])
        return
    from speechmapper.train.sweep import SweepRequest, require_success
    from speechmapper.train.sweep_stage2 import sweep_stage2 as train_variants
    from speechmapper.train.sweep_table import print_rows

    rows = train_variants(SweepRequest(store, out, variants, target, split, resume, llm), projector)
    if is_main():
        print_rows(rows, out, as_json)
    require_success(rows)


def _names(text: str) -> list[str]:
    """The parts of a text between commas; there has to be one."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise typer.BadParameter(f"{text!r}: name at least one, such as de,zh", param_hint="--languages")
    return names


def _numbers(text: str, flag: str) -> str:
    """The text, checked to be numbers separated by commas."""
    try:
        [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text}: give numbers separated by commas", param_hint=flag) from None
    return text


def _print_outcome(outcome: Outcome, out: Path, as_json: bool) -> None:
    if not is_main():
        return
    if as_json:
        typer.echo(json.dumps({"out": str(out), **dataclasses.asdict(outcome)}))
        return
    figures = ", ".join(f"{name} {value:.4g}" for name, value in outcome.figures.items())
    typer.echo(
        f"{outcome.ended}: {outcome.step} steps, {outcome.skipped} skipped{', ' if figures else ''}{figures}; {out}"
    )


def main() -> None:
    """Entry point."""
    end_with_parent()
    run(app)


if __name__ == "__main__":
    main()
