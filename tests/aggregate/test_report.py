import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import html5lib  # type: ignore[import-untyped]
import pandas as pd
import pytest

from aggregate import figures
from aggregate.claim import Claim, Estimate
from aggregate.coverage import Extras
from aggregate.report import Picture, provenance_sheet, to_html
from aggregate.stats import mean_interval
from aggregate.tables import coverage_sheet, setting_sheets
from tests.aggregate.evil import EVIL
from tests.aggregate.runs import SMALL, a_frame, planned, progressive_plans, result, rising, scored
from tests.aggregate.runs import cell as a_cell
from tests.browser import Browser
from tests.make import a_provenance

PLANS = [*progressive_plans(size=5000), *progressive_plans(size=500)]
CLAIMS = (
    Claim(
        "E1",
        "The gain from pretrained layers depends strongly on dataset size.",
        "holds",
        "The shares differ by more than 10 points.",
        (Estimate("share at k = 2", mean_interval([0.3, 0.4, 0.35]), bound=0.1, meaning="10 points"),),
        "The whole interval is above.",
    ),
    Claim("E2", "Nothing to see.", "fails", "A rule.", (), "All below."),
    Claim("E3", "Nor here.", "not enough data", "A rule.", (), "No cells."),
)


class About:
    def __init__(self, title: str = "A study", note: str = "One paragraph.\n\nAnd another.") -> None:
        self.title, self.note = title, note


def drawn(runs: pd.DataFrame) -> list[Picture]:
    drawings = figures.draw_all(runs)
    return [Picture(name, figures.to_svg(each), each.title, each.caption) for name, each in drawings.items()]


def complete() -> pd.DataFrame:
    return a_frame(PLANS, scored(PLANS, rising))


def page(runs: pd.DataFrame | None = None, study: About | None = None, extras: Extras = Extras()) -> str:  # noqa: B008
    runs = complete() if runs is None else runs
    return to_html(
        study or About(),
        runs,
        extras,
        sheets=setting_sheets(runs),
        coverage=coverage_sheet(runs, extras),
        claims=CLAIMS,
        pictures=drawn(runs),
    )


class Elements(HTMLParser):
    """Names of elements, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_is_html_that_a_strict_parser_takes() -> None:
    html5lib.HTMLParser(strict=True).parse(page())


def test_the_same_results_give_the_same_page() -> None:
    assert page() == page(complete().copy())


def test_the_page_names_nothing_outside_of_itself() -> None:
    for tag, attributes in Elements(page()).found:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        for name, value in attributes.items():
            if name in {"src", "href", "xlink:href", "action", "srcset", "data"}:
                assert (value or "").startswith("#"), (tag, name, value)


def test_every_section_that_the_page_lists_is_there_and_every_id_stands_once() -> None:
    found = Elements(page()).found
    ids = [attributes["id"] for _, attributes in found if attributes.get("id")]
    links = [attributes["href"] for tag, attributes in found if tag == "a"]
    assert len(set(ids)) == len(ids)
    assert {link.removeprefix("#") for link in links if link} <= set(ids)
    assert {"claims", "figures", "tables", "cost", "provenance"} <= set(ids)


def test_a_page_without_claims_and_pictures_has_no_empty_sections() -> None:
    runs = complete()
    text = to_html(About(), runs, Extras(), sheets=setting_sheets(runs), coverage=coverage_sheet(runs, Extras()))
    assert 'id="claims"' not in text
    assert 'id="figures"' not in text


def test_a_complete_study_has_no_warnings_and_a_hole_or_mixed_code_is_one() -> None:
    assert 'class="warnings"' not in page()
    holes = a_frame(PLANS, scored(PLANS, rising)[1:])
    assert "INCOMPLETE: planned runs without a score: 1 of 30." in page(holes)
    one = a_cell()
    mixed = [
        result(one, 1, 0.9),
        result(one, 2, 0.8, provenance=a_provenance(git_commit="e" * 40, rows_sha256="f" * 64)),
    ]
    text = page(a_frame([planned(one, seeds=(1, 2))], mixed))
    assert re.search("Mixed provenance: 2 git commits: a{40} .1 run., e{40} .1 run.", text)
    assert "Mixed provenance: 2 data revisions: dddddddddddd (1 run), ffffffffffff (1 run)" in text


def test_code_with_uncommitted_changes_is_a_warning() -> None:
    one = a_cell()
    run = result(one, 1, 0.9, provenance=a_provenance(git_commit="a" * 40 + "+dirty"))
    assert "Code with uncommitted changes" in page(a_frame([planned(one, seeds=(1,))], [run]))


def test_provenance_counts_the_runs_of_each_combination() -> None:
    one = a_cell()
    runs = [result(one, seed, 0.5, provenance=a_provenance(device="x" if seed < 3 else "y")) for seed in (1, 2, 3)]
    sheet = provenance_sheet(a_frame([planned(one)], runs))
    assert [(row[1], row[4]) for row in sheet.rows] == [("2", "x"), ("1", "y")]


def test_a_verdict_is_said_in_words_and_not_in_colour_alone() -> None:
    text = page()
    for verdict, mark in {"holds": "✓", "fails": "✗", "not enough data": "?"}.items():
        assert f"{mark} {verdict}" in text


@pytest.mark.parametrize("text", EVIL.values(), ids=list(EVIL))
def test_evil_text_shows_as_itself_and_makes_no_element(text: str) -> None:
    plans = progressive_plans(model=SMALL.model_copy(update={"name": text}))
    runs = a_frame(plans, scored(plans, rising))
    claim = Claim(text, text, "holds", text, (Estimate(text, mean_interval([1.0]), meaning=text),), text)
    evil = to_html(
        About(text, text),
        runs,
        Extras(),
        sheets=setting_sheets(runs),
        coverage=coverage_sheet(runs, Extras()),
        claims=[claim],
        pictures=drawn(runs),
    )
    assert all(line.isprintable() for line in evil.split("\n"))
    found = Elements(evil).found
    assert [tag for tag, _ in found].count("script") == 1
    assert not any(name.startswith("on") for _, attributes in found for name in attributes)
    assert not {"b", "i", "img", "x", "strong"} & {tag for tag, _ in found}
    html5lib.HTMLParser(strict=True).parse(evil)


# ------------------------------------------------------------------------------------------------- in a real browser


@pytest.fixture(scope="module")
def a_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page(a_frame(PLANS, scored(PLANS, rising)[1:])), encoding="utf-8")
    return path


@pytest.fixture
def shown(browser: Browser, a_page: Path) -> Browser:
    browser.open(a_page)
    return browser


def column(browser: Browser, heading: str) -> list[str]:
    script = """
        const header = [...document.querySelectorAll("#tables ~ div table:first-of-type th button")]
            .find((each) => each.textContent === arguments[0]).parentElement;
        return [...header.closest("table").tBodies[0].rows].map((row) => row.cells[header.cellIndex].textContent);
    """
    found: list[str] = browser.run(script, heading)
    return found


def test_the_page_loads_nothing_and_its_script_runs_without_a_complaint(shown: Browser) -> None:
    assert shown.complaints() == []
    assert shown.run("return performance.getEntriesByType('resource').length") == 0
    assert shown.run("return document.querySelectorAll('th button').length") > 20


def test_a_header_sorts_its_table_by_keyboard_as_numbers_and_back(shown: Browser) -> None:
    before = column(shown, "mean")
    focus = """
        const button = [...document.querySelectorAll("#tables ~ div table:first-of-type th button")]
            .find((each) => each.textContent === "mean");
        button.focus();
    """
    state = "return document.activeElement.parentElement.getAttribute('aria-sort')"
    shown.run(focus)
    shown.press(" ")
    assert shown.run(state) == "ascending"
    assert column(shown, "mean") == sorted(before, key=float)
    shown.press("\ue007")  # Enter
    assert shown.run(state) == "descending"
    assert column(shown, "mean") == sorted(before, key=float, reverse=True)
    shown.press(" ")
    assert shown.run(state) is None
    assert column(shown, "mean") == before


def test_the_first_tab_offers_to_skip_to_the_content(shown: Browser) -> None:
    shown.press("\ue004")
    assert shown.run("return document.activeElement.getAttribute('href')") == "#content"
    shown.press("\ue007")
    assert shown.run("return document.activeElement.id") == "content"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_audit_finds_nothing_against_its_use_with_a_screen_reader(shown: Browser, scheme: str) -> None:
    shown.emulate("prefers-color-scheme", scheme)
    shown.run("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    shown.run((files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8") + "; window.axe = axe;")
    violations = shown.run("return axe.run().then((found) => found.violations)")
    found = [f"{each['id']}: {node['html'][:100]}" for each in violations for node in each["nodes"]]
    assert found == []


def test_the_two_schemes_look_different_and_fill_the_window(shown: Browser) -> None:
    looks = {}
    for scheme in ("light", "dark"):
        shown.emulate("prefers-color-scheme", scheme)
        looks[scheme] = shown.run("return getComputedStyle(document.body).backgroundColor"), shown.screenshot()
    assert looks["light"][0] == "rgb(255, 255, 255)"
    assert looks["dark"][0] != looks["light"][0]
    assert all(len(png) > 20_000 for _, png in looks.values())
    assert shown.run("return document.documentElement.scrollWidth <= window.innerWidth")


def test_an_evil_report_runs_no_script_of_its_texts(browser: Browser, tmp_path: Path) -> None:
    text = "".join(EVIL.values()) + "<img src=x onerror=\"document.title='caught'\">"
    plans = progressive_plans(model=SMALL.model_copy(update={"name": text}))
    runs = a_frame(plans, scored(plans, rising))
    (tmp_path / "evil.html").write_text(page(runs, About(text, text)), encoding="utf-8")
    browser.open(tmp_path / "evil.html")
    assert browser.complaints() == []
    assert browser.run("return document.title") != "caught"
    assert browser.run("return document.images.length") == 0
