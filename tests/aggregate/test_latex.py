"""LaTeX: read by a small parser always, and by pdfLaTeX where it is installed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from aggregate.paper import paper_sheets
from aggregate.tables import MOST_FLOATS, Sheet, setting_sheets, to_latex
from tests.aggregate.evil import EVIL
from tests.aggregate.runs import a_frame, every_family, rising, scored

LETTERS = "汉字 Ω ж é ß \N{RIGHT-TO-LEFT MARK} 🙂 ₂ – … × ± « þ"
LONG = Sheet("long", ("a", "b"), tuple((f"row_{n}", LETTERS) for n in range(150)), frozenset({0}), wide=frozenset({1}))
EVILS = Sheet(EVIL["starts a new row"], ("what", "text"), tuple(EVIL.items()), frozenset(), frozenset({0, 9}),
              tuple(EVIL.values()), frozenset({1}))  # fmt: skip


def study() -> tuple[list[Sheet], list[Sheet]]:
    plans = every_family()
    frame = a_frame(plans, scored(plans, rising)[:-7])
    return setting_sheets(frame), paper_sheets(frame)


def checked(text: str) -> int:
    """The number of rows of all tables, each of which has as many cells as its table has columns.

    Raises AssertionError: an environment or a brace is open, or a row has too many or too few cells.
    """
    open_environments: list[str] = []
    columns, rows = 0, 0
    for line in text.splitlines():
        if line.startswith("%"):
            continue
        bare = re.sub(r"\\[{}&]", "", line)
        assert bare.count("{") == bare.count("}"), line
        if begun := re.search(r"\\begin\{(\w+)\}(.*)", line):
            open_environments.append(begun[1])
            spec = re.sub(
                r">\{[^}]*\}|\{[^}]*\}$|p\{[^}]*\}", lambda found: "p" if found[0][0] == "p" else "", begun[2][1:-1]
            )
            columns = len(re.findall("[lrp]", spec)) if begun[1] in {"tabular", "longtable"} else columns
        elif ended := re.search(r"\\end\{(\w+)\}", line):
            assert open_environments.pop() == ended[1]
        elif line.endswith(r" \\") and not line.startswith(("\\caption", "\\midrule")):
            assert bare.count("&") + 1 == columns, line
            rows += 1
    assert not open_environments
    return rows


def test_every_row_has_the_cells_of_its_table() -> None:
    settings, paper = study()
    heads = 2 * len(settings)  # one for the first page, one for the others
    assert checked(to_latex(settings, title="t")) == sum(len(sheet.rows) for sheet in settings) + heads
    assert checked(to_latex(paper, title="t", floats=True)) == sum(len(sheet.rows) + 1 for sheet in paper)


@pytest.mark.parametrize("floats", [False, True])
def test_evil_strings_open_no_row_cell_or_environment(floats: bool) -> None:
    assert checked(to_latex([EVILS], title=EVIL["starts a new row"], floats=floats)) == 10 + (1 if floats else 2)


def test_a_row_too_short_and_an_open_brace_are_seen() -> None:
    text = to_latex([LONG], title="t")
    with pytest.raises(AssertionError):
        checked(text.replace("row\\_3 &", "row\\_3", 1))
    with pytest.raises(AssertionError):
        checked(text.replace("row\\_3 &", "{row\\_3 &", 1))


def test_a_long_table_repeats_its_header_and_rules_with_booktabs() -> None:
    text = to_latex([LONG], title="t")
    assert "% Needs \\usepackage{booktabs,array,longtable}." in text
    assert text.count(r"a & b \\") == 2
    assert text.count(r"\endhead") == text.count(r"\endlastfoot") == text.count(r"\bottomrule") == 1


def test_more_floats_than_latex_holds_are_long_tables() -> None:
    text = to_latex([LONG] * (MOST_FLOATS + 1), title="t", floats=True)
    assert r"\begin{table}" not in text
    assert text.count(r"\begin{longtable}") == MOST_FLOATS + 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_pdflatex_sets_everything(tmp_path: Path) -> None:
    settings, paper = study()
    long = to_latex([*settings, LONG, EVILS], title="t", note=EVIL["reads a file in LaTeX"])
    short = to_latex([*paper, EVILS], title="t", floats=True)
    document = (
        "\\documentclass{article}\n\\usepackage[margin=2cm]{geometry}\n\\usepackage{booktabs,array,longtable}\n"
        f"\\begin{{document}}\n{short}\\clearpage\n{long}\\end{{document}}\n"
    )
    (tmp_path / "all.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout.decode("utf-8", "replace")[-3000:]
    log = (tmp_path / "all.log").read_text(encoding="utf-8", errors="replace")
    assert "passwd" not in re.sub(r"Overfull.*\n.*\n", "", log)
