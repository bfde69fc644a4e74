"""The rules of the house that no linter holds: sizes, where `__init__.py` is, what no source may contain."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (ROOT / "store/sm_store", ROOT / "pipeline/sm_pipeline", ROOT / "speechmapper")
SOURCES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_NESTING = 3
BLOCKS = (ast.For, ast.While, ast.If)  # `with` and `try` are scopes, not decisions
# Each of these can run code that a file brings with it, or decodes what it should not.
FORBIDDEN_CALLS = re.compile(r"\b(pickle\.|torch\.load\(|yaml\.load\(|\.decode\(\)\s*#\s*webdataset|eval\(\")")
FORBIDDEN_WORDS = re.compile(r"trust_remote_code\s*=\s*True")
WITHOUT_TESTS = {"__init__", "version"}
VAGUE_NAMES = {"utils", "helpers", "common", "misc"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> list[ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def nesting(node: ast.AST) -> int:
    """How deep blocks lie in blocks; an `elif` is not deeper than its `if`, a nested function starts anew."""
    deepest = 0
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.FunctionDef):
                continue
            is_elif = isinstance(node, ast.If) and field == "orelse" and isinstance(child, ast.If)
            own = 1 if isinstance(child, BLOCKS) and not is_elif else 0
            deepest = max(deepest, own + nesting(child))
    return deepest


def test_there_are_sources():
    assert len(SOURCES) > 50


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_files_and_functions_are_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES
    for function in functions(path):
        assert function.end_lineno - function.lineno < MAX_FUNCTION_LINES, function.name
        assert nesting(function) <= MAX_NESTING, function.name


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_every_module_says_what_it_is_for(path):
    text = path.read_text(encoding="utf-8")
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "no module docstring"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_nothing_that_can_run_foreign_code(path):
    text = path.read_text(encoding="utf-8")
    assert not FORBIDDEN_CALLS.search(text)
    assert not FORBIDDEN_WORDS.search(text)
    assert "import pickle" not in text


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_user_input_is_not_checked_by_assert(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]


def test_names_say_what_is_inside():
    assert not [name(path) for path in SOURCES if path.stem in VAGUE_NAMES]


def test_source_roots_are_no_packages():
    for folder in ("pipeline", "store", "jobs"):
        assert not (ROOT / folder / "__init__.py").exists()


def test_every_module_has_its_tests():
    missing = []
    for package, mirror in zip(PACKAGES, ("store", "pipeline", "speechmapper"), strict=True):
        for path in package.rglob("*.py"):
            place = ROOT / "tests" / mirror / path.relative_to(package).with_name(f"test_{path.name}")
            if path.stem not in WITHOUT_TESTS and not place.is_file():
                missing.append(name(path))
    assert missing == []


def test_only_durable_opens_files_for_writing_in_the_store():
    writing = re.compile(r"open\([^)]*[\"'](w|a|x|r\+|wb|ab|xb|r\+b)[\"']|\.write_(text|bytes)\(|os\.O_(WRONLY|RDWR)")
    guilty = [
        name(path)
        for path in (ROOT / "store/sm_store").rglob("*.py")
        if path.name != "durable.py" and writing.search(path.read_text(encoding="utf-8"))
    ]
    assert guilty == []


def test_the_layers_hold():
    tool = Path(sys.executable).parent / "lint-imports"
    run = subprocess.run([tool], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def module_name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(source: str, modules: Mapping[str, object]) -> set[str]:
    """The modules of `modules` that a source imports: at its top, in functions, and for type checking only."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {module if module in modules else node.module for module in names.values()}
    return found & modules.keys()


def circle(sources: Mapping[str, str]) -> str | None:
    """A circle of imports among the sources of modules, as `a -> b -> a`; None where there is none."""
    try:
        TopologicalSorter({name: imported(source, sources) for name, source in sources.items()}).prepare()
    except CycleError as error:
        return " -> ".join(reversed(error.args[1]))
    return None


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_no_imports_go_in_a_circle(package):
    paths = sorted(package.rglob("*.py"))
    assert circle({module_name(path, package): path.read_text(encoding="utf-8") for path in paths}) is None


@pytest.mark.parametrize(
    ("back", "found"),
    [
        ("from p.a import f", "p.a -> p.b -> p.a"),
        ("def g():\n    import p.a", "p.a -> p.b -> p.a"),
        ("if TYPE_CHECKING:\n    from p import a", "p.a -> p.b -> p.a"),
        ("from p import f", None),
        ("import os", None),
    ],
)
def test_the_measure_of_circles(back, found):
    shown = circle({"p": "", "p.a": "from p.b import h", "p.b": back})
    assert (shown and sorted(shown.split(" -> ")[1:])) == (found and sorted(found.split(" -> ")[1:]))


@pytest.mark.parametrize(
    ("shown", "depth"),
    [
        ("def f():\n  if a:\n    pass\n  elif b:\n    pass\n  elif c:\n    pass", 1),
        ("def f():\n  for a in b:\n    if c:\n      while d:\n        pass", 3),
        ("def f():\n  for a in b:\n    def g():\n      if c:\n        pass", 1),
    ],
)
def test_the_measure_of_nesting(shown, depth):
    assert nesting(ast.parse(shown).body[0]) == depth
