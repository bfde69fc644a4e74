"""The steps that reproduce the paper, as a list made from a configuration file; nothing is run here.

    steps = plan(read_config(Path("jobs/paper/paper.yaml")), Path("work"))
    steps[0].name, steps[0].command       "manifest/librispeech", ["sm-pipeline", "manifest", "librispeech", ...]

Where things are written, below the working folder:

    stores/CORPUS.store                   features, and a target set for each LLM where the corpus is trained on
    LLM/stage1/alpha-5 ...                the alpha sweep; LLM/ood/alpha-5/CORPUS its out-of-domain ASR
    LLM/chosen                            a link to the run that did best there
    LLM/asr/sigma-0.9 ..., LLM/st         stage 2: a sweep where several sigmas are given, else one run
    LLM/eval/RUN/TASK-CORPUS              predictions.jsonl and metrics.json of each evaluation
    report.html, report.md, report.tex
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

HERE = Path(__file__).parent
KEYS = {
    *("corpora", "encoder", "extract", "llms", "targets", "stage1", "choose", "stage2", "evaluate", "report"),
    *("launch", "rates"),
}
LAUNCH = {"extract": "sm-pipeline extract", "train": "sm-train"}


@dataclass(frozen=True, slots=True)
class Step:
    """One command.

    Attributes:
        name: unique, also its mark's. group: the row of the plan that it is counted in.
        output: what is there once it is done. after: the steps whose results it uses.
        kind: the rate that applies to it. audio: hours of audio it goes through; None: unknown. runs: trainings in it.
    """

    name: str
    group: str
    command: list[str]
    output: Path
    after: tuple[str, ...] = ()
    kind: str = ""
    audio: float | None = None
    runs: int = 1


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus, its manifest and its store."""

    name: str
    settings: Mapping[str, Any]
    manifest: Path
    store: Path

    @property
    def hours(self) -> float | None:
        """Hours of audio: by the manifest, once it is there and tells them, else as the configuration gives them."""
        seconds = 0.0
        if self.manifest.is_file():
            lines = map(json.loads, self.manifest.read_text(encoding="utf-8").splitlines())
            seconds = sum(line.get("duration") or 0.0 for line in lines)
        given: float | None = self.settings.get("hours")
        return seconds / 3600 if seconds else given


def refuse(problem: str) -> NoReturn:
    """End with one line, as our commands do for bad input."""
    sys.stderr.write(f"error: {problem}\n")
    sys.exit(2)


def read_config(path: Path) -> dict[str, Any]:
    """The configuration; paths in it are relative to the folder the command is called in."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        refuse(f"--config {path}: cannot be read ({' '.join(str(error).split())}); see {HERE / 'paper.yaml'}")
    if not isinstance(config, dict) or config.keys() != KEYS:
        odd = sorted(KEYS ^ set(config)) if isinstance(config, dict) else []
        refuse(f"--config {path}: missing or unknown: {', '.join(odd)}; its keys are {', '.join(sorted(KEYS))}")
    named = {name for part in used_corpora(config) for name in part}
    if unknown := sorted(named - config["corpora"].keys()):
        refuse(f"--config {path}: corpus {unknown[0]} is used but not listed under corpora")
    return config


def used_corpora(config: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    """The names of corpora wherever the configuration uses them."""
    yield config["stage1"]["corpora"]
    yield config["choose"]["corpora"]
    yield from (each["corpora"] for each in config["stage2"].values())
    yield from config["evaluate"]["corpora"].values()


@dataclass(frozen=True, slots=True)
class Plan:
    """A configuration, a working folder, and the corpora in both."""

    config: Mapping[str, Any]
    work: Path
    corpora: Mapping[str, Corpus] = field(default_factory=dict)

    def launch(self, kind: str) -> list[str]:
        """The start of the commands that extract or train: ours, or the launcher that the configuration names."""
        return shlex.split(self.config["launch"].get(kind, LAUNCH[kind]))

    def stores(self, names: Sequence[str]) -> list[str]:
        return [word for name in names for word in ("--store", str(self.corpora[name].store))]

    def trained_on(self) -> list[str]:
        """The corpora that need target sets."""
        parts = [self.config["stage1"], *self.config["stage2"].values()]
        return list(dict.fromkeys(name for part in parts for name in part["corpora"]))

    def steps(self) -> list[Step]:
        """Every step, each after those it needs."""
        found = [*self.features()]
        evaluations: list[Step] = []
        for llm in self.config["llms"]:
            found += [*self.stage1(llm), *self.stage2(llm)]
            evaluations += self.evaluations(llm)
        return [*found, *evaluations, *self.model_scores(evaluations), self.report(evaluations)]

    def features(self) -> Iterator[Step]:
        """Manifest and store of each corpus, and the target sets."""
        for corpus in self.corpora.values():
            yield Step(f"manifest/{corpus.name}", "list the corpora", self.manifest(corpus), corpus.manifest)
            command = [*self.launch("extract"), str(corpus.manifest), "--store", str(corpus.store)]
            command += ["--encoder", self.config["encoder"], *self.config["extract"]]
            command += corpus.settings.get("extract", [])
            needed = (f"manifest/{corpus.name}",)
            name = f"extract/{corpus.name}"
            yield Step(name, "extract features", command, corpus.store, needed, "extract", corpus.hours)
        for name in self.trained_on():
            for llm, settings in self.config["llms"].items():
                store = self.corpora[name].store
                command = ["sm-pipeline", "embed", "--store", str(store), "--llm", settings["model"], "--name", llm]
                command += ["--targets", self.config["targets"]]
                yield Step(
                    f"embed/{name}/{llm}", "add each LLM's targets", command, store, (f"extract/{name}",), "embed"
                )

    def manifest(self, corpus: Corpus) -> list[str]:
        kind = corpus.settings["kind"]
        if kind == "demo":
            utterances = str(corpus.settings["utterances"])
            return ["sm-pipeline", "demo-corpus", str(corpus.manifest.parent), "--utterances", utterances]
        split = ["--split", corpus.settings["split"]] if "split" in corpus.settings else []
        return ["sm-pipeline", "manifest", kind, corpus.settings["path"], str(corpus.manifest), *split]

    def stage1(self, llm: str) -> Iterator[Step]:
        """The alpha sweep, its out-of-domain ASR, and the choice."""
        part, model = self.config["stage1"], self.config["llms"][llm]
        folder, alphas = self.work / llm / "stage1", part["alphas"]
        command = [*self.launch("train"), "sweep", "stage1", *self.stores(part["corpora"]), "--target", llm]
        command += ["--alpha", ",".join(f"{alpha:g}" for alpha in alphas), *training(model["preset"], part)]
        command += ["--out", str(folder)]
        needed = tuple(f"embed/{name}/{llm}" for name in part["corpora"])
        title = f"{llm}: stage 1, alpha {', '.join(f'{alpha:g}' for alpha in alphas)}"
        yield Step(f"stage1/{llm}", title, command, folder / "sweep.json", needed, "stage1", runs=len(alphas))
        tried = []
        for alpha in alphas:
            for name in self.config["choose"]["corpora"]:
                out = self.work / llm / "ood" / f"alpha-{alpha:g}" / name
                command = ["sm-eval", "asr", str(folder / f"alpha-{alpha:g}"), *self.stores([name]), "--llm"]
                command += [
                    model["model"],
                    "--split",
                    self.config["choose"]["split"],
                    *self.options(),
                    "--out",
                    str(out),
                ]
                tried.append(f"ood/{llm}/alpha-{alpha:g}/{name}")
                after = (f"stage1/{llm}", f"extract/{name}")
                group = f"{llm}: choose alpha by out-of-domain ASR"
                yield Step(tried[-1], group, command, out / "metrics.json", after, "evaluate", self.corpora[name].hours)
        link = self.work / llm / "chosen"
        command = [sys.executable, str(HERE / "choose.py"), str(self.work / llm / "ood"), str(folder), str(link)]
        yield Step(f"choose/{llm}", f"{llm}: choose alpha by out-of-domain ASR", command, link, tuple(tried))

    def stage2(self, llm: str) -> Iterator[Step]:
        """One sweep or run per entry of `stage2`."""
        model = self.config["llms"][llm]
        for name, part in self.config["stage2"].items():
            folder, sigmas = self.work / llm / name, part.get("sigmas", [])
            command = [*self.launch("train"), *(["sweep"] if sigmas else []), "stage2", *self.stores(part["corpora"])]
            command += ["--target", llm, "--projector", str(self.work / llm / "chosen"), "--llm", model["model"]]
            command += ["--task", part["task"], *training(part.get("preset", model["preset"]), part)]
            command += ["--sigma", ",".join(f"{sigma:g}" for sigma in sigmas)] if sigmas else []
            command += ["--out", str(folder)]
            needed = (f"choose/{llm}", *(f"embed/{corpus}/{llm}" for corpus in part["corpora"]))
            done = folder / ("sweep.json" if sigmas else "projector/config.json")
            title = f"{llm}: stage 2, {name}" + (
                f", sigma {', '.join(f'{each:g}' for each in sigmas)}" if sigmas else ""
            )
            yield Step(f"stage2/{llm}/{name}", title, command, done, needed, "stage2", runs=max(1, len(sigmas)))

    def evaluations(self, llm: str) -> Iterator[Step]:
        """Each run on the sets of each task that it is measured on."""
        model, sets = self.config["llms"][llm]["model"], self.config["evaluate"]["corpora"]
        for run, folder, after, tasks in self.runs(llm):
            for task in tasks:
                for name in sets.get(task, []):
                    out = self.work / llm / "eval" / run / f"{task}-{name}"
                    command = ["sm-eval", task, str(folder), *self.stores([name]), "--llm", model, *self.options()]
                    command += [*self.config["evaluate"].get("task_options", {}).get(task, []), "--out", str(out)]
                    yield Step(
                        f"eval/{llm}/{run}/{task}-{name}",
                        f"{llm}: evaluate {', '.join(sets)}",
                        command,
                        out / "metrics.json",
                        (after, f"extract/{name}"),
                        "evaluate",
                        self.corpora[name].hours,
                    )

    def runs(self, llm: str) -> Iterator[tuple[str, Path, str, Sequence[str]]]:
        """Name, folder and step of each run to evaluate, and the tasks it is measured on."""
        every = list(self.config["evaluate"]["corpora"])
        yield "stage1", self.work / llm / "chosen", f"choose/{llm}", every
        for name, part in self.config["stage2"].items():
            step, folder = f"stage2/{llm}/{name}", self.work / llm / name
            tasks = part.get("measure", every)
            for sigma in part.get("sigmas", []):
                yield f"{name}-sigma-{sigma:g}", folder / f"sigma-{sigma:g}", step, tasks
            if not part.get("sigmas"):
                yield name, folder, step, tasks

    def options(self) -> list[str]:
        return list(self.config["evaluate"].get("options", []))

    def model_scores(self, evaluations: Sequence[Step]) -> Iterator[Step]:
        """COMET and judges, where the configuration names them: steps of their own, since they load other models."""
        for task, flags in self.config["evaluate"].get("model_scores", {}).items():
            for step in evaluations:
                if step.command[1] == task:
                    command = ["sm-eval", "score", str(step.output.parent), *flags]
                    group = f"score {task} by models: {' '.join(flags)}"
                    yield Step(
                        step.name.replace("eval/", "score/", 1), group, command, step.output, (step.name,), "score"
                    )

    def report(self, evaluations: Sequence[Step]) -> Step:
        folders = [f"{step.name.removeprefix('eval/')}={step.output.parent}" for step in evaluations]
        files = {"--html": "report.html", "--markdown": "report.md", "--latex": "report.tex"}
        command = ["sm-eval", "report", *folders, *self.config["report"]]
        command += [word for flag, name in files.items() for word in (flag, str(self.work / name))]
        scored = [step.name for step in self.model_scores(evaluations)]
        needed = (*(step.name for step in evaluations), *scored)
        return Step("report", "tables and page", command, self.work / "report.html", needed)


def training(preset: str, part: Mapping[str, Any]) -> list[str]:
    """Preset and settings of a training; it continues what is there."""
    settings = [word for setting in part.get("settings", []) for word in ("--set", setting)]
    return ["--preset", preset, *settings, "--resume"]


def plan(config: Mapping[str, Any], work: Path) -> list[Step]:
    """Every step of a configuration, each after those it needs."""
    corpora = {}
    for name, settings in config["corpora"].items():
        demo = settings["kind"] == "demo"
        manifest = work / "corpora" / name / "manifest.jsonl" if demo else Path(settings["path"]) / f"{name}.jsonl"
        corpora[name] = Corpus(name, settings, manifest, work / "stores" / f"{name}.store")
    return Plan(config, work, corpora).steps()
