"""The paper, start to end: corpora, features, alpha and sigma sweeps of both LLMs, every evaluation set, the report.

    python jobs/paper/paper.py --work work --dry-run     what will be done, with hours and gigabytes and their sources
    python jobs/paper/paper.py --work work               does it; run again, it continues
    python jobs/paper/paper.py --work work --only 'extract/*' --only 'stage1/llama'      these steps alone

Each step is one of our own commands (`plan.py` has the list, `paper.yaml` what it is made from), printed before it
runs. A step that ended well leaves a mark in WORK/steps: the command, the marks of the steps it used, and its seconds.
It is skipped while its output is there and neither the command nor those steps have changed; the training and
extraction commands themselves continue what a stop has left. Steps run one after the other; `--only` shares them out
by hand.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import FrameType
from typing import Any

from plan import HERE, Step, plan, read_config, refuse
from rich.console import Console
from rich.table import Table


def mark_of(work: Path, name: str) -> Path:
    return work / "steps" / f"{name.replace('/', '__')}.json"


def inputs(step: Step, work: Path) -> dict[str, Any]:
    """What decides whether a step is done: its command, and what the steps before it left as marks."""
    marks = {name: mark_of(work, name) for name in step.after}
    seen = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in marks.items() if path.is_file()}
    return {"command": step.command, "after": seen}


def complete(output: Path) -> bool:
    """Whether an output is there, and whole: a training that was stopped has saved its run and ended well."""
    if not output.exists():
        return False
    if output.name == "sweep.json":
        return all(row["finished"] for row in json.loads(output.read_text(encoding="utf-8")))
    if output.parent.name == "projector":
        return bool(json.loads(output.read_text(encoding="utf-8"))["trained_for"]["training"]["finished"])
    return True


def finished(step: Step, work: Path) -> dict[str, Any] | None:
    """The mark of a step that is done; None for one that is not, or no longer."""
    mark = mark_of(work, step.name)
    if not mark.is_file() or not complete(step.output):
        return None
    found: dict[str, Any] = json.loads(mark.read_text(encoding="utf-8"))
    wanted = inputs(step, work)
    return found if {key: found[key] for key in wanted} == wanted else None


def all_finished(steps: Sequence[Step], work: Path) -> dict[str, dict[str, Any]]:
    """The marks, by name, of the steps that are done and build on nothing that is not."""
    found: dict[str, dict[str, Any]] = {}
    for step in steps:
        mark = finished(step, work)
        if mark is not None and set(step.after) <= found.keys():
            found[step.name] = mark
    return found


def call(step: Step) -> tuple[int, bool]:
    """Run a step's command: its exit code, and whether a signal came, which the command gets too and saves at."""
    try:
        process = subprocess.Popen(step.command)
    except OSError as error:
        refuse(f"{step.name}: {step.command[0]} cannot be run ({error.strerror}); activate the virtual environment")
    came: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        came.append(number)
        if number == signal.SIGTERM:  # Ctrl-C reaches the command from the terminal
            process.terminate()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return process.wait(), bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(steps: Sequence[Step], work: Path, chosen: Sequence[str]) -> None:
    """Run what is not done, one after the other; the first failure ends it with the command's exit code."""
    for step in steps:
        done = all_finished(steps, work)
        if not any(fnmatchcase(step.name, pattern) for pattern in chosen) or step.name in done:
            continue
        missing = [name for name in step.after if name not in done]
        if missing:
            refuse(f"{step.name} needs {missing[0]}, which is not done; leave --only out, or run that first")
        before = inputs(step, work)
        sys.stderr.write(f"\n[{step.name}] $ {shlex.join(step.command)}\n")
        began = time.monotonic()
        code, stopped = call(step)
        if code or not complete(step.output):
            sys.stderr.write(
                f"error: {step.name} has not ended well (exit code {code}); the same command continues it\n"
            )
            sys.exit(code or 1)
        mark = mark_of(work, step.name)
        mark.parent.mkdir(parents=True, exist_ok=True)
        new = mark.with_suffix(".new")
        new.write_text(json.dumps({**before, "seconds": round(time.monotonic() - began, 1), "at": time.time()}))
        new.replace(mark)
        if stopped:
            sys.exit("stopped; the same command continues")


def hours(step: Step, mark: Mapping[str, Any] | None, rates: Mapping[str, Any]) -> float | None:
    """Hours of one step: measured where its mark says it is done, else by its rate; None: unknown."""
    if mark is not None:
        return float(mark["seconds"]) / 3600
    rate = rates.get(step.kind, {})
    if not step.kind:
        return 0.0
    if "hours_per_run" in rate:
        return float(rate["hours_per_run"]) * step.runs
    if rate.get("x_realtime") and step.audio is not None:
        return step.audio / float(rate["x_realtime"])
    return None


def gigabytes(step: Step, rates: Mapping[str, Any]) -> float | None:
    """Gigabytes that a step writes; None: unknown."""
    rate = rates.get(step.kind, {})
    if "gb_per_run" in rate:
        return float(rate["gb_per_run"]) * step.runs
    if "gb_per_hour_of_audio" in rate:
        return None if step.audio is None else float(rate["gb_per_hour_of_audio"]) * step.audio
    return 0.0


def shown(values: Sequence[float | None]) -> str:
    """A sum: ? where it is unknown, - where it is nothing."""
    total = sum(value for value in values if value is not None)
    unknown = ["?"] if None in values else []
    if not total:
        return unknown[0] if unknown else "-"
    text = f"{total:,.0f}" if total >= 100 else f"{total:.2g}" if total >= 0.01 else "< 0.01"
    return " + ".join([text, *unknown])


def print_plan(steps: Sequence[Step], work: Path, config: Mapping[str, Any]) -> None:
    """The plan as a table: a row per group of steps, with the sources of its figures below."""
    rates, console, done = config["rates"], Console(), all_finished(steps, work)
    table = Table(title=f"The plan for {work}")
    for name in ("", "what", "commands", "done", "hours", "GB on disk", "source"):
        table.add_column(name, justify="left" if name in ("what", "source") else "right")
    kinds = [kind for kind in rates if any(step.kind == kind for step in steps)]

    def figures(members: Sequence[Step]) -> list[str]:
        ready = sum(step.name in done for step in members)
        time_taken = [hours(step, done.get(step.name), rates) for step in members]
        return [str(len(members)), str(ready), shown(time_taken), shown([gigabytes(step, rates) for step in members])]

    for number, group in enumerate(dict.fromkeys(step.group for step in steps), start=1):
        members = [step for step in steps if step.group == group]
        cited = [f"\\[{kinds.index(kind) + 1}]" for kind in kinds if any(step.kind == kind for step in members)]
        table.add_row(str(number), group, *figures(members), " ".join(cited))
    table.add_section()
    table.add_row("", "all", *figures(steps))
    console.print(table)
    for number, kind in enumerate(kinds, start=1):
        console.print(f"[{number}] {kind}: {rates[kind]['source']}", markup=False, highlight=False)
    console.print(
        "Hours are of the hardware that the source names, one command after the other; of steps that are done,"
    )
    console.print("those they took here. -: little beside the rest. ?: not known yet.")
    for line in needs(config):
        console.print(f"needs: {line}", markup=False, highlight=False)


def needs(config: Mapping[str, Any]) -> list[str]:
    """What has to be there before the first step."""
    lines = []
    for name, settings in config["corpora"].items():
        if settings["kind"] != "demo":
            state = "there" if Path(settings["path"]).is_dir() else "MISSING"
            lines.append(f"{name} at {settings['path']} ({state}); {settings.get('source', 'hours by its manifest')}")
    models = [config["encoder"], *(each["model"] for each in config["llms"].values())]
    lines.append(f"models: {', '.join(models)}, from the Hub or as folders")
    if scores := config["evaluate"].get("model_scores"):
        lines.append(f"for {', '.join(scores)}: {config['evaluate'].get('model_scores_need', 'the models they name')}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs the paper, or shows what it takes.")
    parser.add_argument("--config", type=Path, default=HERE / "paper.yaml", help="what to run [default: paper.yaml]")
    parser.add_argument("--work", type=Path, required=True, help="folder for stores, runs, evaluations and the report")
    parser.add_argument("--only", action="append", metavar="PATTERN", help="steps of these names, such as 'extract/*'")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and run nothing")
    parser.add_argument("--commands", action="store_true", help="print every step with its command and run nothing")
    given = parser.parse_args()
    config = read_config(given.config)
    steps = plan(config, given.work)
    patterns = given.only or ["*"]
    chosen = [step for step in steps if any(fnmatchcase(step.name, pattern) for pattern in patterns)]
    if not chosen:
        refuse(f"--only {given.only[0]}: no step of that name; --commands lists them")
    if given.commands:
        for step in chosen:
            sys.stdout.write(f"{step.name}: {shlex.join(step.command)}\n")
    if given.dry_run:
        print_plan(chosen, given.work, config)
    if not given.commands and not given.dry_run:
        run(steps, given.work, patterns)


if __name__ == "__main__":
    main()
