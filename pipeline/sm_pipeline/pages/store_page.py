"""One self-contained page of a store: what made it, what is in it, and its distributions.

    $ sm-pipeline inspect corpus.store --html corpus.html

    facts = write_page(Path("corpus.store"), Path("corpus.html"))

`survey.py` measures, `figures.py` draws, `html.py` fills `templates/store.html.j2`. What comes from a store is escaped;
figures hold numbers only. The same store gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sm_pipeline.pages.distributions import Histogram
from sm_pipeline.pages.figures import draw_fit, draw_histogram
from sm_pipeline.pages.html import render_page
from sm_pipeline.pages.inspection import GIGABYTE
from sm_pipeline.pages.survey import Survey, TargetSurvey, take_survey
from sm_store import Store
from sm_store.durable import write_file
from sm_store.errors import ConfigError
from sm_store.ledger import REASONS
from sm_store.version import __version__

TEMPLATE = Path(__file__).parent / "templates" / "store.html.j2"
FIRST_KEYS = ("id", "revision", "name", "family", "layer", "tap", "width")  # of a group of settings


def write_page(path: Path, out: Path) -> dict[str, Any]:
    """Write the page of the store at `path` to the file `out`, replaced at once; returns the facts of `inspect`.

    Raises:
        ConfigError: `out` cannot be a page. StoreError: no store there, or a damaged one.
    """
    _check_place(path, out)
    survey = take_survey(Store.open(path))
    write_file(out, render(survey).encode("utf-8", "backslashreplace"))
    return {**survey.facts, "html": str(out)}


def render(survey: Survey) -> str:
    """The page as HTML."""
    return render_page(
        TEMPLATE,
        facts=survey.facts,
        survey=survey,
        made_by=made_by(survey.facts["identity"]),
        reasons=REASONS,
        gigabytes=survey.facts["bytes"] / GIGABYTE,
        figures=_figures(survey),
        target_figures=[_target_figures(number, target) for number, target in enumerate(survey.targets)],
        version=__version__,
    )


def made_by(identity: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The identity as tables: one per group of settings, and `features` for single values."""
    groups: dict[str, dict[str, str]] = {"encoder": {}, "features": {}}
    for key, value in identity.items():
        if isinstance(value, Mapping):
            ordered = sorted(value, key=lambda name: FIRST_KEYS.index(name) if name in FIRST_KEYS else len(FIRST_KEYS))
            groups[key] = {name: _words(value[name]) for name in ordered}
        else:
            groups["features"][key] = _words(value)
    return {name: rows for name, rows in groups.items() if rows}


def _check_place(store: Path, out: Path) -> None:
    if out.is_dir():
        raise ConfigError(f"--html {out}: a folder; name a file in it, like {out / 'store.html'}")
    if not out.parent.is_dir():
        raise ConfigError(f"--html {out}: there is no folder {out.parent}; make it, or name another")
    if out.exists() and not out.is_file():
        raise ConfigError(f"--html {out}: not a plain file; name another")
    if out.resolve().is_relative_to(store.resolve()):
        raise ConfigError(f"--html {out}: inside the store, which holds records only; name a file outside")


def _words(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _figures(survey: Survey) -> list[tuple[str, str, str]]:
    """Title, caption and drawing of each figure of the store as a whole."""
    sampled = survey.features.records
    of = f"all {sampled:,} records" if sampled == survey.facts["records"] else f"{sampled:,} records drawn at random"
    shown = [
        ("Durations", "seconds", survey.durations, "utterances", ""),
        ("Frames", "frames", survey.frames, "utterances", ""),
        ("Feature norms", "L2 norm of a frame", survey.features.norms, "frames", f"The frames of {of}. "),
    ]
    return [
        (title, f"{said}{_spread(data)}", draw_histogram(data, f"figure-{number}", x_label, y_label))
        for number, (title, x_label, data, y_label, said) in enumerate(shown)
        if data is not None
    ]


def _target_figures(number: int, target: TargetSurvey) -> list[tuple[str, str, str]]:
    """Title, caption and drawing of each figure of one target set."""
    figures = []
    name = f"target-{number}"
    if target.tokens is not None:
        drawing = draw_histogram(target.tokens, f"{name}-tokens", "tokens")
        figures.append(("Tokens", _spread(target.tokens), drawing))
    if target.fit is not None:
        said = "A text fits below the line: its tokens and one pad. Stronger colour: more utterances. "
        said += f"Pads fill {target.fit.pad_share:.0%} of the vectors."
        figures.append(("Tokens against output vectors", said, draw_fit(target.fit, f"{name}-fit")))
    if target.row_norms is not None:
        mark = ("pad", target.pad_norm)
        drawing = draw_histogram(target.row_norms, f"{name}-norms", "L2 norm of a row", "tokens", mark)
        said = f"One row per token of the vocabulary; the pad token's norm is {target.pad_norm:.4g}. "
        figures.append(("Embedding table", f"{said}{_spread(target.row_norms)}", drawing))
    return figures


def _spread(shown: Histogram) -> str:
    low, early, median, late, high = shown.quantiles.values()
    outside = f" ({shown.outside:,} outside the figure)" if shown.outside else ""
    return f"Median {median:.4g}, 90% from {early:.4g} to {late:.4g}, all from {low:.4g} to {high:.4g}{outside}."
