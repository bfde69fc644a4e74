"""Tables as Markdown and LaTeX; what users wrote has no meaning in either."""

from __future__ import annotations

import re

import pytest

from speechmapper.eval.report.tables import (
    LONGEST_CELL,
    Cell,
    Column,
    Row,
    Table,
    latex,
    latex_text,
    markdown,
    markdown_text,
    on_one_line,
)

TABLE = Table(
    "Runs & more",
    (Column("run"), Column("WER %", number=True)),
    [Row((Cell("a_1"), Cell("2.30"))), Row((Cell("b|c"), Cell("not measured", "no uv")), own=True)],
    ["In brackets: intervals."],
)


def test_markdown():
    assert markdown([TABLE]) == (
        "## Runs \\& more\n\n"
        "| run | WER % |\n"
        "| --- | ---: |\n"
        "| a\\_1 | 2.30 |\n"
        "| **b\\|c** | not measured |\n\n"
        "- In brackets: intervals.\n"
        "- b\\|c, WER %: not measured: no uv\n"
    )


def test_latex():
    shown = latex([TABLE])
    assert shown.splitlines()[0].startswith("%") and "booktabs" in shown.splitlines()[0]
    assert r"\caption{Runs \& more}" in shown
    assert r"\begin{tabular}{lr}" in shown and r"run & WER \% \\" in shown
    assert r"a\_1 & 2.30 \\" in shown
    assert r"\textbf{b\textbar{}c} & not measured \\" in shown
    assert r"\par\footnotesize b\textbar{}c, WER \%: not measured: no uv" in shown
    order = [shown.index(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}", r"\end{table}")]
    assert order == sorted(order)


ATTACK = '\\input{x} $1$ &#% _ ^ ~ {} <script> " | ` * [a](b) \n\n\u2028 \x1b[31m –…'


def test_nothing_in_latex_keeps_its_meaning():
    text = latex_text(ATTACK)
    without_commands = re.sub(r"\\(text\w+|ldots)\{\}", "", text)
    without_escapes = re.sub(r"\\[{}$&#%_]", "", without_commands)
    assert not re.search(r"[\\{}$&#%_^~<>|\"]", without_escapes)
    assert "\n" not in text and "\x1b" not in text and "\u2028" not in text
    assert latex_text("\\") == r"\textbackslash{}"


def test_nothing_in_markdown_keeps_its_meaning():
    text = markdown_text(ATTACK)
    assert not re.search(r"(?<!\\)[|<>`*_\[\]$]", text.replace("\\\\", ""))
    assert len(text.splitlines()) == 1
    row = markdown([Table(ATTACK, (Column("a"),), [Row((Cell(ATTACK),))])]).splitlines()
    assert len([line for line in row if line.startswith("|")]) == 3


def test_a_bracket_at_the_start_of_a_row_is_no_argument_of_the_line_before():
    shown = latex([Table("t", (Column("a"), Column("b")), [Row((Cell("[x]"), Cell("[y]")))])])
    assert "{}[x] & {}[y]" in shown


@pytest.mark.parametrize(("text", "expected"), [("a\n b\t", "a b"), ("", ""), ("a\u2028b\0c", "a b c")])
def test_texts_on_one_line(text, expected):
    assert on_one_line(text) == expected


def test_long_texts_are_cut():
    assert on_one_line("x" * 10**6) == "x" * LONGEST_CELL + "…"


def test_a_reason_is_told_once():
    rows = [Row((Cell("a"), Cell("not measured", "why")))] * 2
    assert Table("t", (Column("run"), Column("COMET")), rows).all_notes() == ["a, COMET: not measured: why"]
