"""Every training setting with its type, default and help: the list that `sm-train keys` prints.

    lr: float = 1e-4  # largest learning rate (paper)          in OptimizerConfig
    settings("stage1")["optimizer.lr"]                         Setting("float", 1e-4, "largest learning rate (paper)")

The help of a setting is the comment on its line in `speechmapper/config.py`, so that it is written once; the help of a
group is the first line of its class's docstring.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from speechmapper.config_file import STAGES

KEY_WIDTH, DEFAULT_WIDTH, HELP_WIDTH = 34, 16, 70  # columns of the printed list


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its type as written, its default (a JSON value) and its help."""

    type: str
    default: Any
    help: str


def settings(stage: str) -> dict[str, Setting]:
    """The settings of a stage by their keys, in the order of the configuration file."""
    found: dict[str, Setting] = {}
    defaults = STAGES[stage]()
    for name, value, described in _fields(defaults):
        if dataclasses.is_dataclass(value):
            found |= {f"{name}.{key}": each for key, _, each in _fields(value)}
        else:
            found[name] = described
    return found


def to_json() -> dict[str, dict[str, dict[str, Any]]]:
    """Stage, key, then `type`, `default` and `help`."""
    return {stage: {key: dataclasses.asdict(each) for key, each in settings(stage).items()} for stage in STAGES}


def in_words() -> str:
    """The list as text: a heading per stage and group, a line per setting, long help continued below itself."""
    lines: list[str] = []
    for stage, kind in STAGES.items():
        lines += ["", f"{stage}  {_summary(kind)}"] if lines else [f"{stage}  {_summary(kind)}"]
        group, defaults = "", kind()
        for key, each in settings(stage).items():
            named = key.rpartition(".")[0]
            if named != group:
                group = named
                lines += ["", f"  {group}  {_summary(type(getattr(defaults, group)))}"]
            lines += _lines(key, each)
    return "\n".join(lines)


def _lines(key: str, each: Setting) -> list[str]:
    start = f"  {key:<{KEY_WIDTH}}{_shown(each.default):<{DEFAULT_WIDTH}}"
    first, *others = textwrap.wrap(each.help, HELP_WIDTH)
    return [f"{start}  {first}", *(" " * (len(start) + 2) + line for line in others)]


def _fields(config: Any) -> list[tuple[str, Any, Setting]]:
    """Name, default and description of each field of a configuration dataclass."""
    comments = _comments(type(config))
    return [
        (
            field.name,
            value := getattr(config, field.name),
            Setting(str(field.type), list(value) if isinstance(value, tuple) else value, comments.get(field.name, "")),
        )
        for field in dataclasses.fields(config)
    ]


def _comments(kind: type) -> Mapping[str, str]:
    """The comment on the line of each annotated field of a class."""
    source = textwrap.dedent(inspect.getsource(kind))
    by_line = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    body = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)).body
    return {
        node.target.id: by_line[node.end_lineno]
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.end_lineno in by_line
    }


def _summary(kind: type) -> str:
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def _shown(value: Any) -> str:
    """A default as one would write it after `--set key=`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
