"""The page of a report, and the same tables as Markdown and LaTeX.

    report = gather(ReportRequest(("runs/a", "runs/b"), html=Path("report.html")))
    write(report)        report.html: one file that needs no other and no network

`evaluations.py` reads, the other modules of this folder count and draw, `sm_pipeline.pages.html` fills
`templates/report.html.j2`. All that comes from users is escaped there. The same evaluations give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sm_pipeline.pages.html import render_page
from sm_store.durable import write_file
from sm_store.errors import ConfigError
from sm_store.version import __version__
from speechmapper.eval.report.breakdowns import by_column, by_entry
from speechmapper.eval.report.causes import Cause, cause_table, causes
from speechmapper.eval.report.clips import Clips
from speechmapper.eval.report.evaluations import Evaluation, number, read_evaluations
from speechmapper.eval.report.examples import Examples, examples_of
from speechmapper.eval.report.lines import measured_lines
from speechmapper.eval.report.published import beside_published
from speechmapper.eval.report.run_table import identity_of, run_table
from speechmapper.eval.report.shown_metrics import MAIN
from speechmapper.eval.report.sweeps import Sweep, sweeps
from speechmapper.eval.report.tables import Table, latex, markdown

TEMPLATE = Path(__file__).parent / "templates" / "report.html.j2"


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """What `sm-eval report` makes.

    Attributes:
        places: evaluation folders, each `OUT` or `NAME=OUT`.
        html, markdown, latex: files to write, at least one.
        manifests: to take audio from, before those that the evaluations were made from.
        worst, random: utterances shown of each run. seed: of the random ones.
    """

    places: Sequence[str]
    html: Path | None = None
    markdown: Path | None = None
    latex: Path | None = None
    manifests: Sequence[Path] = ()
    worst: int = 3
    random: int = 2
    seed: int = 0

    def files(self) -> dict[str, Path]:
        """The files to write by the flag that names them."""
        named = {"--html": self.html, "--markdown": self.markdown, "--latex": self.latex}
        return {flag: path for flag, path in named.items() if path is not None}


@dataclass(frozen=True, slots=True)
class RunDetails:
    """What the page shows of one run alone."""

    run: Evaluation
    causes: Sequence[Cause]
    examples: Examples
    identity: Mapping[str, str]


def write_report(request: ReportRequest) -> dict[str, Any]:
    """Write the files of a report; returns the runs with their main metrics, and the files with their sizes.

    Raises:
        ConfigError: nothing to write, a file that cannot be written, a folder that is no evaluation, two of one name.
        ManifestError: a manifest that was named and cannot be read.
    """
    files = request.files()
    if not files:
        raise ConfigError("report: nothing to write; give --html, --markdown or --latex with a file")
    for flag, path in files.items():
        _check_place(flag, path)
    evaluations = read_evaluations(request.places)
    tables = [run_table(evaluations), *beside_published(evaluations)]
    facts: dict[str, Any] = {"runs": [_facts(run) for run in evaluations]}
    for flag, path in files.items():
        text = {
            "--html": lambda: render(evaluations, tables, request),
            "--markdown": lambda: markdown(tables),
            "--latex": lambda: latex(tables),
        }[flag]()
        raw = text.encode("utf-8", "backslashreplace")  # half a surrogate pair in an output is no UTF-8
        try:
            write_file(path, raw)
        except OSError as error:
            raise ConfigError(f"{flag} {path}: cannot be written ({error.strerror}); name another file") from error
        facts[flag.removeprefix("--")] = {"path": str(path), "bytes": len(raw)}
    return facts


def render(evaluations: Sequence[Evaluation], tables: Sequence[Table], request: ReportRequest) -> str:
    """The page as HTML."""
    clips = Clips(request.manifests)
    details = [_details(run, clips, request) for run in evaluations]
    return render_page(
        TEMPLATE,
        evaluations=evaluations,
        runs=tables[0],
        published=tables[1:],
        sweeps=_drawn(sweeps(evaluations)),
        groups=[*by_column(evaluations), *by_entry(evaluations)],
        causes=cause_table([(each.run, each.causes) for each in details]),
        details=details,
        version=__version__,
    )


def _details(run: Evaluation, clips: Clips, request: ReportRequest) -> RunDetails:
    lines = measured_lines(run)
    examples = examples_of(run, lines, clips, request.worst, request.random, request.seed)
    return RunDetails(run, causes(run, lines), examples, identity_of(run))


def _drawn(found: Sequence[Sweep]) -> list[Sweep]:
    return [sweep for sweep in found if sweep.figures or sweep.bars or sweep.note]


def _facts(run: Evaluation) -> dict[str, Any]:
    found = {metric.key: number(run.metrics, metric.key) for metric in MAIN}
    return {
        "name": run.name,
        "path": str(run.path),
        "task": run.task,
        "predictions": len(run.predictions),
        **{key: value for key, value in found.items() if value is not None},
    }


def _check_place(flag: str, out: Path) -> None:
    if out.is_dir():
        raise ConfigError(f"{flag} {out}: a folder; name a file in it, like {out / 'report'}.{flag[2:]}")
    if not out.parent.is_dir():
        raise ConfigError(f"{flag} {out}: there is no folder {out.parent}; make it, or name another")
