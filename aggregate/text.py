"""Foreign text made harmless in each format that leaves the project.

Law: names, notes and messages are data. Whatever they hold, they show as themselves and are never markup, formula,
command, terminal control or layout.
"""

import re

from jobs.shown import clipped, visible

__all__ = ["clipped", "counted", "latex", "markdown", "prose", "spreadsheet", "visible"]


def prose(text: str) -> str:
    """A paragraph on one line: any run of blanks and newlines is one blank, the rest as in `visible`."""
    return visible(" ".join(text.split()))


def counted(number: int, noun: str) -> str:
    """`1 run`, `2 runs`, `3,291 runs`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


_MARKDOWN = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "\\": "&#92;"} | {
    char: "\\" + char for char in "`*[]~$"
}


def markdown(text: str) -> str:
    """Text inside a cell or a list item of GitHub-flavoured Markdown.

    The characters that end a cell or open HTML are entities, which hold in every renderer; an underscore inside a
    word is already literal. What would open a list or a heading at the start is escaped there.
    """
    escaped = "".join(_MARKDOWN.get(char, char) for char in visible(text))
    escaped = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", escaped)
    escaped = re.sub(r"^\s*([#+-])(?!\d)", r"\\\1", escaped)
    return re.sub(r"^\s*(\d+)([.)])(?=\s|$)", r"\1\\\2", escaped)


_EVERYWHERE = frozenset("ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝßàáâãäåæçèéêëìíîïñòóôõöøùúûüýÿ")
"""Letters beyond ASCII that every LaTeX sets in its usual fonts."""

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "{''}",  # active under babel, and \textquotedbl does not exist in every font encoding
    "`": r"\textasciigrave{}",
    # Right after a `\\` these would be its arguments: the length of a gap, and its star.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "–": "--",
    "…": r"\dots{}",
    "×": r"$\times$",
    "±": r"$\pm$",
} | {char: "\\" + char for char in "{}$&#_%"}


def latex(text: str) -> str:
    r"""Text inside a LaTeX cell or caption; a minus before a digit is set as one.

    pdfLaTeX stops at a letter that its fonts lack: there such a letter is printed as its code point, while XeLaTeX and
    LuaLaTeX, which know `\Umathchar`, print it as it is.
    """
    escaped = "".join(_LATEX.get(char) or _letter(char) for char in visible(text))
    return re.sub(r"(?<![\w.-])-(?=\d)", "$-$", escaped)


def _letter(char: str) -> str:
    if char.isascii() or char in _EVERYWHERE:
        return char
    return rf"\ifdefined\Umathchar {char}\else {{[}}U+{ord(char):04X}{{]}}\fi{{}}"


def spreadsheet(text: str) -> str:
    """Text for a CSV field that a spreadsheet may open: what would start a formula gets an apostrophe before it."""
    shown = visible(text)
    return "'" + shown if shown.lstrip().startswith(tuple("=+-@＝＋－＠")) else shown
