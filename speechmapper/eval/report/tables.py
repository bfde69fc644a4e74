"""Tables of texts: one form for the page, for Markdown and for LaTeX.

    table = Table("Runs", (Column("run"), Column("WER %", number=True)), [Row((Cell("a_1"), Cell("2.30")))])
    print(markdown([table]))          | run | WER % |
                                      | --- | ---: |
                                      | a\\_1 | 2.30 |
    print(latex([table]))             booktabs; a\\_1 & 2.30 \\\\

Names and texts in cells come from users. Here each output escapes what has a meaning in it; the page's template
escapes by itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

ABSENT = "\u2013"  # a dash
LONGEST_CELL = 120  # characters
LONGEST_NOTE = 600
_BREAKS = re.compile(r"[\s\x00-\x1f\x7f\x85\u2028\u2029]+")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$])")
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    ABSENT: "--",
    "…": r"\ldots{}",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """What one cell says; `note`: why it says no more."""

    text: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A heading; numbers are set to the right."""

    label: str
    number: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Cells, one per column; `own`: whether it is one of the user's among published ones."""

    cells: tuple[Cell, ...]
    own: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a title and lines of text below it."""

    title: str
    columns: tuple[Column, ...]
    rows: Sequence[Row]
    notes: Sequence[str] = field(default_factory=tuple)

    def all_notes(self) -> list[str]:
        """The table's notes, and the reasons of its cells, each once and after the name of its row and column."""
        reasons = [
            f"{row.cells[0].text}, {column.label}: {cell.text}: {cell.note}"
            for row in self.rows
            for column, cell in zip(self.columns, row.cells, strict=True)
            if cell.note
        ]
        return [*self.notes, *dict.fromkeys(reasons)]


def markdown(tables: Sequence[Table]) -> str:
    """Tables as GitHub's Markdown, a heading before each."""
    return "\n".join(_markdown_table(table) for table in tables)


def latex(tables: Sequence[Table]) -> str:
    """Tables for LaTeX; they need `\\usepackage{booktabs}` and an engine that reads UTF-8, as all do today."""
    return "% needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}\n" + "\n".join(map(_latex_table, tables))


def on_one_line(text: str, longest: int = LONGEST_CELL) -> str:
    """A text without ends of lines and control characters, cut after `longest` characters."""
    plain = _BREAKS.sub(" ", text[: 4 * longest]).strip()
    return plain if len(plain) <= longest else f"{plain[:longest]}…"


def markdown_text(text: str, longest: int = LONGEST_CELL) -> str:
    """A text on one line, without meaning in Markdown and HTML."""
    return _MARKDOWN.sub(r"\\\1", on_one_line(text, longest))


def latex_text(text: str, longest: int = LONGEST_CELL) -> str:
    """A text on one line, without meaning in LaTeX."""
    return "".join(_LATEX.get(character, character) for character in on_one_line(text, longest))


def _markdown_table(table: Table) -> str:
    lines = [
        f"## {markdown_text(table.title)}\n",
        _markdown_row([markdown_text(column.label) for column in table.columns]),
        _markdown_row(["---:" if column.number else "---" for column in table.columns]),
    ]
    for row in table.rows:
        texts = [markdown_text(cell.text) for cell in row.cells]
        lines.append(_markdown_row([f"**{texts[0]}**", *texts[1:]] if row.own else texts))
    lines += ["", *(f"- {markdown_text(note, LONGEST_NOTE)}" for note in table.all_notes())]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _latex_table(table: Table) -> str:
    layout = "".join("r" if column.number else "l" for column in table.columns)
    rows = [_latex_row([latex_text(column.label) for column in table.columns]), r"\midrule"]
    for row in table.rows:
        texts = [latex_text(cell.text) for cell in row.cells]
        rows.append(_latex_row([rf"\textbf{{{texts[0]}}}", *texts[1:]] if row.own else texts))
    notes = [rf"\par\footnotesize {latex_text(note, LONGEST_NOTE)}" for note in table.all_notes()]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex_text(table.title)}}}",
        rf"\begin{{tabular}}{{{layout}}}",
        r"\toprule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        *notes,
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(texts: Sequence[str]) -> str:
    # A bracket at the start would be read as an argument of the \\ before it.
    return " & ".join(f"{{}}{text}" if text.startswith("[") else text for text in texts) + r" \\"
