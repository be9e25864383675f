import functools
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from aggregate import figures
from jobs.cell import Reinit
from jobs.tasks import GLUE
from tests.aggregate.evil import EVIL
from tests.aggregate.runs import SMALL, a_frame, cell, planned, progressive_plans, result, rising, scored

PLANS = progressive_plans(size=100) + progressive_plans(size=500) + progressive_plans(task=GLUE["cola"])


@functools.cache
def complete() -> pd.DataFrame:
    return a_frame(PLANS, scored(PLANS, rising))


@functools.cache
def complete_bytes(kind: Literal["pdf", "png"]) -> bytes:
    """The file of a complete figure, drawn once for all tests that only read it."""
    return figures.to_bytes(drawn(complete(), title="t"), kind)


def drawn(frame: pd.DataFrame, **options: str) -> Figure:
    figure = figures.progressive(frame, **options)
    assert figure is not None
    return figure


def said(figure: Figure) -> str:
    """All text in the figure."""
    parts = [figure.get_suptitle(), figure.get_supxlabel().replace("\n", " ")]
    for axes in figure.axes:
        parts += [axes.get_title("left"), axes.get_xlabel(), axes.get_ylabel()]
        if (legend := axes.get_legend()) is not None:
            parts += [text.get_text() for text in legend.get_texts()]
    return "\n".join(parts)


def test_there_is_a_panel_per_task_and_a_line_per_size() -> None:
    first, second = figures.panels(complete())
    assert [(curve.size, len(curve.points)) for curve in first.curves] == [("500", 5), ("100", 5)]
    assert [curve.size for curve in second.curves] == ["500"]
    assert [point.preserved_layers for point in first.curves[0].points] == [0, 1, 2, 3, 4]


def test_the_figure_says_metric_n_and_what_its_bars_cover() -> None:
    text = said(drawn(complete()))
    assert "accuracy (validation)" in text
    assert "Matthews correlation (validation)" in text
    assert "500 examples (n = 3)" in text
    assert "bars are 95% Student t intervals over seeds, given one validation set" in text
    assert "INCOMPLETE" not in text


def test_the_axis_runs_from_no_layer_to_all_with_whole_ticks() -> None:
    figure = drawn(complete())
    axes = figure.axes[0]
    assert [tick for tick in axes.get_xticks() if 0 <= tick <= 4] == [0, 1, 2, 3, 4]
    low, high = axes.get_xlim()
    assert -1 < low < 0
    assert 4 < high < 5


@pytest.mark.parametrize("kind", ["pdf", "png"])
def test_the_same_frame_gives_the_same_bytes(kind: Literal["pdf", "png"]) -> None:
    once, twice = complete_bytes(kind), figures.to_bytes(drawn(complete(), title="t"), kind)
    assert hashlib.sha256(once).hexdigest() == hashlib.sha256(twice).hexdigest()
    assert b"CreationDate" not in once


def test_a_second_process_gives_the_same_bytes(tmp_path: Path) -> None:
    code = (
        "import hashlib, tests.aggregate.test_figures as t\n"
        "print(*(hashlib.sha256(t.complete_bytes(kind)).hexdigest() for kind in ('pdf', 'png')))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    here = [hashlib.sha256(file).hexdigest() for file in (complete_bytes("pdf"), complete_bytes("png"))]
    assert done.stdout.split() == here


def test_drawing_leaves_the_librarys_settings_alone() -> None:
    before = dict(mpl.rcParams)
    figures.to_bytes(drawn(complete()), "png")
    assert dict(mpl.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules


def test_a_point_short_of_runs_is_hollow_and_the_caption_says_incomplete() -> None:
    frame = a_frame(
        PLANS, [each for each in scored(PLANS, rising) if (each.digest, each.seed) != (PLANS[2].cell.digest, 1)]
    )
    figure = drawn(frame)
    assert hollow(figure) == 1
    assert hollow(drawn(complete())) == 0
    assert "INCOMPLETE: planned runs without a score: 1;" in said(figure)
    assert "100 examples (n = 2 to 3)" in said(figure)


def hollow(figure: Figure) -> int:
    return sum(line.get_markerfacecolor() == "white" for axes in figure.axes for line in axes.lines)


def test_a_cell_without_a_score_is_a_cross_that_no_line_passes() -> None:
    plans = progressive_plans()
    gone = plans[2].cell.digest
    figure = drawn(a_frame(plans, [each for each in scored(plans, rising) if each.digest != gone]))
    (axes,) = figure.axes
    lines = [np.asarray(line.get_xdata()).tolist() for line in axes.lines if line.get_linewidth() == 1.6]
    assert lines == [[0, 1], [3, 4]]
    assert [np.asarray(line.get_xdata()).tolist() for line in axes.lines if line.get_marker() == "x"] == [[2]]
    assert "crosses on the axis" in said(figure)


def test_a_study_in_which_nothing_ran_still_draws_its_holes() -> None:
    figure = drawn(a_frame(PLANS, []))
    assert "INCOMPLETE: planned runs without a score: 45;" in said(figure)
    figures.to_bytes(figure, "png")


def test_one_seed_has_points_without_bars_and_says_so() -> None:
    plans = [planned(plan.cell, seeds=(1,)) for plan in progressive_plans()]
    assert "Where n = 1 there is no interval." in said(drawn(a_frame(plans, scored(plans, rising))))


def test_a_study_without_progressive_cells_has_no_figure() -> None:
    blocks = [
        planned(cell(Reinit(layers=(k, k + 1))), families=("block",)) for k in (0, 1, 2)
    ]  # the last reaches the top
    ends = [planned(cell(), families=("block",)), planned(cell(Reinit(layers=(0, 1, 2, 3))), families=("ends",))]
    plans = blocks + ends
    assert figures.progressive(a_frame(plans, scored(plans, rising))) is None


def test_a_variant_has_panels_of_its_own_beside_the_first_and_shares_plain_finetuning() -> None:
    kept = [planned(plan.cell, families=("kept-layernorm",)) for plan in progressive_plans(keep_layernorm=True)]
    plans = {plan.cell.digest: plan for plan in [*kept, *progressive_plans()]}
    both = [
        planned(plan.cell, families=("progressive", "kept-layernorm")) if plan.cell.treatment == Reinit() else plan
        for plan in plans.values()
    ]
    first, second = figures.panels(a_frame(both, scored(both, rising)))
    assert (first.title, [curve.variant for curve in first.curves]) == ("sst2", [""])
    assert second.title == "sst2, LayerNorm kept"
    assert [(curve.variant, len(curve.points)) for curve in second.curves] == [("LayerNorm kept", 5), ("", 5)]


def test_a_study_of_one_variant_has_it_in_the_first_panels() -> None:
    plans = progressive_plans(init="released")
    (panel,) = figures.panels(a_frame(plans, scored(plans, rising)))
    assert (panel.title, [curve.variant for curve in panel.curves]) == ("sst2", ["init released"])


def test_every_line_differs_from_every_other_in_colour_or_dash_and_in_marker() -> None:
    plans = [plan for size in (100, 200, 300, 400) for plan in progressive_plans(size=size)]
    looks = list(figures._looks(figures.panels(a_frame(plans, scored(plans, rising)))).values())
    assert len({colour for colour, *_ in looks}) == 4
    assert len({marker for _, marker, _ in looks}) == 4


def test_evil_models_and_titles_are_drawn_as_they_are() -> None:
    # Three depths are the fewest that make a curve: it is the texts that are drawn here.
    models = [SMALL.model_copy(update={"name": text, "layers": 2}) for text in EVIL.values()]
    plans = [plan for model in models for plan in progressive_plans(model=model)]
    figure = drawn(a_frame(plans, [result(plan.cell, 1, 0.5) for plan in plans]), title=EVIL["reads a file in LaTeX"])
    assert r"\input{/etc/passwd} & 5% #1 $x^2$ a_b ~" in said(figure)
    assert all(line.isprintable() for line in said(figure).split("\n"))
    figures.to_bytes(figure, "png")


def test_characters_that_the_font_lacks_are_replaced() -> None:
    assert figures.drawable("a汉b") == "a\N{REPLACEMENT CHARACTER}b"
