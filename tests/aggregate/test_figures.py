"""What is drawn: read from the figure's own parts, not from pixels."""

import functools
import hashlib
import struct
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from aggregate import figures
from aggregate.figures import Drawing, FileKind, Name
from aggregate.figures.style import drawable, look, text_inches, wrapped
from jobs.cell import Probe, Recipe, Reinit, Truncate
from jobs.plan import PlannedCell
from jobs.tasks import GLUE
from tests.aggregate.evil import EVIL
from tests.aggregate.runs import (
    SMALL,
    a_frame,
    every_family,
    family,
    merged,
    planned,
    preserving,
    progressive_plans,
    result,
    rising,
    scored,
)

PLANS = progressive_plans(size=100) + progressive_plans(size=500) + progressive_plans(task=GLUE["cola"])
WHOLE = every_family()


@functools.cache
def complete() -> pd.DataFrame:
    return a_frame(PLANS, scored(PLANS, rising))


@functools.cache
def whole() -> dict[Name, Drawing]:
    """Every figure of a study that has the cells of all of them, drawn once for the tests that only read."""
    return figures.draw_all(a_frame(WHOLE, scored(WHOLE, rising)), title="a study")


def of(plans: Sequence[PlannedCell], name: Name = "progressive", *, missing: Sequence[tuple[str, int]] = ()) -> Drawing:
    results = [one for one in scored(plans, rising) if (one.digest, one.seed) not in missing]
    return figures.draw_all(a_frame(plans, results))[name]


def panels(drawing: Drawing) -> list[Axes]:
    return [axes for axes in drawing.figure.axes if axes.get_title("left")]


def legend(drawing: Drawing) -> list[str]:
    return [plain(text.get_text()) for each in drawing.figure.legends for text in each.get_texts()]


def plain(text: str) -> str:
    return text.replace("\n", " ")


def said(drawing: Drawing) -> str:
    """All text in the figure."""
    parts = [text.get_text() for text in drawing.figure.texts] + legend(drawing)
    for axes in drawing.figure.axes:
        parts += [axes.get_title("left"), axes.get_xlabel(), axes.get_ylabel()]
        parts += [text.get_text() for text in [*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels()]]
    return "\n".join(map(plain, parts))


def curves(axes: Axes) -> list[list[float]]:
    """The numbers below each joined line."""
    return [numbers(line) for line in axes.lines if line.get_linewidth() == 1.1 and line.get_marker() == "None"]


def numbers(line: Line2D) -> list[float]:
    return [float(x) for x in np.asarray(line.get_xdata())]


def hollow(drawing: Drawing) -> int:
    lines = [line for axes in drawing.figure.axes for line in axes.lines if line.get_markerfacecolor() == "white"]
    return sum(len(numbers(line)) for line in lines)


def crosses(drawing: Drawing) -> list[float]:
    lines = [line for axes in drawing.figure.axes for line in axes.lines if line.get_marker() == "x"]
    return [x for line in lines for x in numbers(line)]


# ---------------------------------------------------------------------------------------------------- which are drawn


def test_a_study_with_every_cell_has_every_figure_in_the_order_of_a_report() -> None:
    assert tuple(whole()) == figures.NAMES


@pytest.mark.parametrize(
    ("plans", "names"),
    [
        (family("ends", [Reinit(), preserving(0)]), ()),
        (family("progressive", [preserving(2)]), ()),
        (progressive_plans(), ("progressive", "heatmap")),
        (family("block", [Reinit(layers=(k, k + 1)) for k in (0, 1, 2)]), ("blocks",)),
        (family("single", [Reinit(layers=(k,)) for k in range(4)]), ("single-layers",)),
        (family("probe", [Probe(depth=k) for k in (1, 2, 3)]), ("progressive",)),
        ([plan for plan in WHOLE if "permutation" in plan.families][:2], ()),
        ([plan for plan in WHOLE if "permutation" in plan.families], ("permutations",)),
    ],
    ids=("two ends", "one depth", "progressive", "blocks", "single", "probes", "two orders", "five orders"),
)
def test_a_figure_is_drawn_where_its_cells_are_and_nowhere_else(
    plans: list[PlannedCell], names: tuple[Name, ...]
) -> None:
    assert tuple(figures.draw_all(a_frame(plans, scored(plans, rising)))) == names


@pytest.mark.parametrize("name", figures.NAMES)
def test_every_caption_says_what_is_drawn_and_over_how_many(name: Name) -> None:
    drawing = whole()[name]
    assert "n = " in drawing.caption
    assert "INCOMPLETE" not in drawing.caption
    assert drawing.caption in said(drawing)
    assert ("95% Student t interval" in drawing.caption) is (name != "seeds")
    if name != "seeds":
        assert "given one validation set" in drawing.caption


@pytest.mark.parametrize("name", figures.NAMES)
def test_every_figure_has_words_with_its_numbers_for_who_cannot_see_it(name: Name) -> None:
    alt = whole()[name].alt
    assert alt.startswith(whole()[name].title)
    assert sum(char.isdigit() for char in alt) > 10


@pytest.mark.parametrize("name", figures.NAMES)
def test_no_text_leaves_the_page_or_covers_other_text(name: Name) -> None:
    figure = whole()[name].figure
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()  # type: ignore[no-untyped-call]
    texts = [*figure.texts, *(text for each in figure.legends for text in each.get_texts())]
    for axes in figure.axes:
        texts += [axes.xaxis.label, axes.yaxis.label, axes._left_title, *axes.texts]  # type: ignore[attr-defined]
        # Ticks outside the limits are there, and not drawn.
        ticks = [tick for axis in (axes.xaxis, axes.yaxis) for tick in axis._update_ticks()]  # type: ignore[union-attr]
        texts += [label for tick in ticks for label in (tick.label1, tick.label2) if label.get_visible()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text().strip()]
    page = figure.bbox
    for text, box in boxes:
        assert page.x0 <= box.x0 < box.x1 <= page.x1, text
        assert page.y0 <= box.y0 < box.y1 <= page.y1, text
    for index, (text, box) in enumerate(boxes):
        # Boxes have room for letters that the text may lack.
        near = [other for other, at in boxes[index + 1 :] if box.padded(-1).overlaps(at.padded(-1))]
        assert not near, (text, near)


# --------------------------------------------------------------------------------------------------------- progressive


def test_there_is_a_panel_per_task_and_a_line_per_size() -> None:
    first, second = panels(of(PLANS))
    assert (first.get_title("left"), second.get_title("left")) == ("sst2", "cola")
    assert curves(first) == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]
    assert curves(second) == [[0, 1, 2, 3, 4]]


def test_the_figure_says_metric_n_and_what_its_bars_cover() -> None:
    text = said(of(PLANS))
    assert "accuracy (validation)" in text
    assert "Matthews correlation (validation)" in text
    assert "500 examples (n = 3)" in text
    assert "95% Student t intervals over seeds, given one validation set" in text


def test_the_axis_runs_from_no_layer_to_all_with_whole_ticks() -> None:
    (axes,) = panels(of(progressive_plans()))
    assert list(axes.get_xticks()) == [0, 1, 2, 3, 4]
    low, high = axes.get_xlim()
    assert -1 < low < 0
    assert 4 < high < 5


def test_probes_stand_beside_the_curves_and_those_of_two_fits_differ() -> None:
    drawing = whole()["progressive"]
    (axes,) = panels(drawing)
    assert curves(axes) == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]]
    assert axes.get_xlabel() == "preserved layers / probe depth"
    assert "500 examples, probe by the recipe (n = 3)" in legend(drawing)
    assert "500 examples, probe fitted to convergence (n = 3)" in legend(drawing)
    handles = [handle for handle in drawing.figure.legends[0].legend_handles if isinstance(handle, Line2D)]
    assert len({(handle.get_marker(), str(handle.get_linestyle()), handle.get_color()) for handle in handles}) == 5


def test_probes_of_another_recipe_stand_in_the_panel_of_their_task_and_say_so() -> None:
    probes = family("probe", [Probe(depth=k) for k in (1, 2, 3)], learning_rate=1e-3)
    drawing = of(progressive_plans() + probes)
    assert len(panels(drawing)) == 1
    assert "500 examples, probe by the recipe, learning_rate 0.001 (n = 3)" in legend(drawing)


def test_truncated_networks_stand_beside_the_curves() -> None:
    drawing = of(merged(progressive_plans(), family("truncate", [Truncate(depth=k) for k in (1, 2, 3)])))
    assert curves(panels(drawing)[0]) == [[0, 1, 2, 3, 4], [1, 2, 3, 4]]
    assert "500 examples, truncated (n = 3)" in legend(drawing)


def test_equal_names_of_different_tasks_have_panels_of_their_own() -> None:
    other = GLUE["sst2"].model_copy(update={"max_words": 5})
    assert len(panels(of(progressive_plans() + progressive_plans(task=other)))) == 2


def test_a_variant_that_no_other_figure_has_gets_panels_of_its_own_beside_the_main_one() -> None:
    plans = merged(progressive_plans(), family("other", [preserving(k, pooler="redraw") for k in range(5)]))
    drawing = of(plans)
    assert [axes.get_title("left") for axes in panels(drawing)] == ["sst2", "sst2, pooler redrawn"]
    assert len(curves(panels(drawing)[1])) == 2
    assert "layernorm" not in figures.draw_all(a_frame(plans, scored(plans, rising)))


def test_a_study_of_one_variant_has_it_in_the_first_panels() -> None:
    (axes,) = panels(of(progressive_plans(init="released")))
    assert axes.get_title("left") == "sst2"


def test_layernorm_and_learning_rate_stand_beside_the_curve_without() -> None:
    assert [len(curves(axes)) for name in ("layernorm", "learning-rate") for axes in panels(whole()[name])] == [2, 2]
    assert legend(whole()["layernorm"])[:2] == [
        "500 examples, LayerNorm reset (n = 3)",
        "500 examples, LayerNorm kept (n = 3)",
    ]
    assert legend(whole()["learning-rate"])[1] == "500 examples, learning rate ×5 (n = 3)"


def test_a_learning_rate_of_another_recipe_is_compared_with_the_main_one_and_both_say_so() -> None:
    faster = [preserving(k, lr_scale=2, frozen_layers=(3,)) for k in range(4)]
    plans = progressive_plans() + family("lr", faster, learning_rate=5e-5)
    assert legend(of(plans, "learning-rate"))[:2] == [
        "500 examples, one learning rate, the paper's recipe (n = 3)",
        "500 examples, learning rate ×2, layers 3 never trained, learning_rate 5e-05 (n = 3)",
    ]


# --------------------------------------------------------------------------------------------------------------- holes


def test_a_point_short_of_runs_is_hollow_and_the_caption_says_incomplete() -> None:
    drawing = of(PLANS, missing=[(PLANS[2].cell.digest, 1)])
    assert hollow(drawing) == 1
    assert hollow(of(PLANS)) == 0
    assert "INCOMPLETE: planned runs without a score: 1; their points are hollow." in said(drawing)
    assert "100 examples (n = 2 to 3)" in legend(drawing)


def test_a_cell_without_a_score_is_a_cross_that_no_line_passes() -> None:
    plans = progressive_plans()
    drawing = of(plans, missing=[(plans[2].cell.digest, seed) for seed in (1, 2, 3)])
    assert curves(panels(drawing)[0]) == [[0, 1], [3, 4]]
    assert crosses(drawing) == [2]
    assert "cells without any (1) are crosses on the axis" in said(drawing)


@pytest.mark.parametrize("name", figures.NAMES)
def test_a_study_in_which_nothing_ran_still_draws_its_holes(name: Name) -> None:
    drawing = nothing_ran()[name]
    assert "INCOMPLETE: planned runs without a score: " in said(drawing)
    assert crosses(drawing) or name == "heatmap"


@functools.cache
def nothing_ran() -> dict[Name, Drawing]:
    return figures.draw_all(a_frame(WHOLE, []))


def test_one_seed_has_points_without_bars_and_says_so() -> None:
    plans = [planned(plan.cell, seeds=(1,)) for plan in progressive_plans()]
    drawing = of(plans)
    assert "Where n = 1 there is no interval." in said(drawing)
    assert not [line for line in panels(drawing)[0].lines if line.get_marker() == "_"]


# ------------------------------------------------------------------------------------------------------ blocks, layers


def test_blocks_have_their_first_layer_across_and_lines_for_full_and_scratch() -> None:
    drawing = whole()["blocks"]
    (axes,) = panels(drawing)
    levels = [np.asarray(line.get_ydata()) for line in axes.lines if numbers(line) == list(axes.get_xlim())]
    assert len([level for level in levels if level[0] == level[1]]) == 2
    assert [line for line in curves(axes) if len(line) > 2] == [[0, 1, 2], [0, 1, 2]]
    assert legend(drawing) == [
        "block of 2 redrawn (n = 3)",
        "all but a block of 2 redrawn (n = 3)",
        "plain finetuning (n = 3)",
        "all layers redrawn (n = 3)",
        "guessing",
    ]


def test_blocks_without_a_baseline_have_no_such_line() -> None:
    assert legend(of(family("block", [Reinit(layers=(k, k + 1)) for k in (0, 1)]), "blocks")) == [
        "block of 2 redrawn (n = 3)",
        "guessing",
    ]


def test_single_layers_have_the_layer_across() -> None:
    (axes,) = panels(whole()["single-layers"])
    assert axes.get_xlabel() == "layer"
    assert curves(axes)[-1] == [0, 1, 2, 3]


# -------------------------------------------------------------------------------------------------- permutations, seeds


def test_each_order_is_a_point_and_n_counts_orders() -> None:
    drawing = whole()["permutations"]
    (axes,) = panels(drawing)
    assert [len(numbers(line)) for line in axes.lines if line.get_marker() == "o"] == [5]
    assert legend(drawing) == [
        "one order",
        "mean over orders (n = 5)",
        "plain finetuning (n = 3)",
        "all layers redrawn (n = 3)",
        "guessing",
    ]
    assert "the mean of 3 seeds" in drawing.caption
    assert "(n = 5 orders)" in drawing.caption
    assert len(axes.collections) == 3  # the density and two bands


def test_fewer_than_five_orders_or_equal_ones_have_no_density() -> None:
    orders = [plan for plan in WHOLE if "permutation" in plan.families]
    assert len(panels(of(orders[:4], "permutations"))[0].collections) == 0
    frame = a_frame(orders, scored(orders, lambda *_: 0.5))
    assert len(panels(figures.draw_all(frame)["permutations"])[0].collections) == 0


def test_an_order_short_of_a_seed_is_hollow() -> None:
    orders = [plan for plan in WHOLE if "permutation" in plan.families]
    # The order, and the mean over orders that it is part of.
    assert hollow(of(orders, "permutations", missing=[(orders[0].cell.digest, 1)])) == 2


def test_every_seed_is_a_point_where_there_are_ten_and_more() -> None:
    drawing = whole()["seeds"]
    (axes,) = panels(drawing)
    assert [len(numbers(line)) for line in axes.lines if line.get_marker() == "o"] == [10] * 5
    assert drawing.title == "Every seed, 100 examples"
    assert "n = 10 in a column" in drawing.caption


def test_a_column_that_lacks_seeds_says_how_many_it_has() -> None:
    plan = next(plan for plan in WHOLE if len(plan.seeds) == 10)
    drawing = of(WHOLE, "seeds", missing=[(plan.cell.digest, 4), (plan.cell.digest, 7)])
    assert [text.get_text() for axes in drawing.figure.axes for text in axes.texts] == ["8"]


# ------------------------------------------------------------------------------------------------------------- heat map


def tiles(drawing: Drawing) -> list[str]:
    return [text.get_text() for axes in panels(drawing) for text in axes.texts]


def test_the_map_has_the_paired_gain_of_each_layer_and_the_loss_of_each_alone() -> None:
    plans = merged(progressive_plans(), family("single", [Reinit(layers=(k,)) for k in range(4)]))
    means = {4: 0.9, 3: 0.85, 2: 0.6, 1: 0.6, 0: 0.62}
    drift = {1: -0.01, 2: 0.0, 3: 0.01}  # cancels in every pair
    frame = a_frame(plans, scored(plans, lambda one, seed: means[4 - len(one.treatment.layers)] + drift[seed]))  # type: ignore[union-attr]
    drawing = figures.draw_all(frame)["heatmap"]
    assert tiles(drawing) == ["−2.0", "0.0", "+25.0", "+5.0", "+5.0", "+5.0", "+5.0", "+5.0"]
    (axes,) = panels(drawing)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["500 examples, one more", "500 examples, alone"]


def test_a_step_over_several_layers_is_one_wide_tile() -> None:
    drawing = of(family("progressive", [preserving(k) for k in (4, 2, 0)]), "heatmap")
    assert len(tiles(drawing)) == 2
    assert "A wide tile is a step of several layers." in drawing.caption


def test_a_number_short_of_runs_has_a_star_and_a_tile_without_any_a_cross() -> None:
    plans = progressive_plans()
    missing = [(plans[0].cell.digest, seed) for seed in (1, 2, 3)] + [(plans[2].cell.digest, 1)]
    drawing = of(plans, "heatmap", missing=missing)
    assert [text[-1] for text in tiles(drawing)] == [tiles(drawing)[0][-1], "*", "*", "×"]
    assert tiles(drawing)[0][-1].isdigit()
    hatched = [patch for patch in panels(drawing)[0].get_children() if getattr(patch, "get_hatch", lambda: None)()]
    assert len(hatched) == 1


def test_a_clear_difference_is_bold_and_another_is_not() -> None:
    plans = progressive_plans()
    noise = {1: 0.0, 2: 0.3, 3: -0.3}
    frame = a_frame(plans, scored(plans, lambda one, seed: 0.5 + noise[seed] * (one.treatment != Reinit())))
    assert [text.get_fontweight() for axes in panels(figures.draw_all(frame)["heatmap"]) for text in axes.texts] == [
        "normal", "normal", "normal", "normal",
    ]  # fmt: skip
    grown = a_frame(plans, scored(plans, lambda one, seed: 0.5 + 0.1 * (one.treatment == Reinit()) + seed / 1000))
    assert [text.get_fontweight() for axes in panels(figures.draw_all(grown)["heatmap"]) for text in axes.texts][
        -1
    ] == ("bold")


def test_twenty_four_layers_still_have_their_numbers_inside_the_tiles() -> None:
    large = SMALL.model_copy(update={"layers": 24})
    drawing = of([planned(plan.cell, seeds=(1, 2)) for plan in progressive_plans(model=large)], "heatmap")
    (axes,) = panels(drawing)
    room = axes.get_position().width * drawing.figure.get_size_inches()[0] / 24
    assert all(text_inches(text.get_text(), float(text.get_fontsize()), bold=True) <= room for text in axes.texts)


# ---------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("kind", figures.KINDS)
def test_the_same_frame_gives_the_same_bytes(kind: FileKind) -> None:
    again = figures.draw_all(complete())["progressive"]
    assert figures.to_bytes(again, kind) == complete_bytes(kind)
    assert b"CreationDate" not in complete_bytes(kind)
    assert b"<dc:date>" not in complete_bytes(kind)


@functools.cache
def complete_bytes(kind: FileKind) -> bytes:
    return figures.to_bytes(figures.draw_all(complete())["progressive"], kind)


def test_a_second_process_gives_the_same_bytes() -> None:
    code = (
        "import hashlib, tests.aggregate.test_figures as t\n"
        "print(*(hashlib.sha256(t.complete_bytes(kind)).hexdigest() for kind in t.figures.KINDS))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [hashlib.sha256(complete_bytes(kind)).hexdigest() for kind in figures.KINDS]


def test_drawing_leaves_the_librarys_settings_alone() -> None:
    before = dict(mpl.rcParams)
    figures.to_bytes(figures.draw_all(complete())["progressive"], "png")
    assert dict(mpl.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules


def svg(name: Name) -> ET.Element:
    return ET.fromstring(figures.to_svg(whole()[name]))


def test_svgs_share_no_id_so_that_they_can_stand_in_one_page() -> None:
    ids = [
        element.get("id") for name in ("progressive", "heatmap") for element in svg(name).iter() if element.get("id")
    ]
    assert len(ids) == len(set(ids))
    assert all(str(one).startswith(("reinit-progressive-", "reinit-heatmap-")) for one in ids)


def test_an_svg_refers_to_nothing_outside_itself() -> None:
    root = svg("progressive")
    ids = {element.get("id") for element in root.iter()}
    references = [v for element in root.iter() for k, v in element.attrib.items() if k.endswith("href")]
    assert references
    assert all(value.removeprefix("#") in ids for value in references)
    assert not [
        element for element in root.iter() if element.tag.endswith(("}style", "}metadata", "}image", "}script"))
    ]


def test_an_svg_has_its_text_as_text_and_says_what_it_shows() -> None:
    root = svg("progressive")
    texts = ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "sst2" in texts
    assert root.get("role") == "img"
    assert root[1].text == whole()["progressive"].alt
    assert root.get("aria-labelledby") == f"{root[0].get('id')} {root[1].get('id')}"


def test_a_page_has_the_same_picture_without_what_it_sets_as_text() -> None:
    drawing = whole()["progressive"]
    file, page = ET.fromstring(figures.to_bytes(drawing, "svg")), svg("progressive")
    assert "Points are means" in drawing.caption
    words, on_page = words_in(file), words_in(page)
    assert "a study" in words
    assert any("Points are means" in text for text in words)
    caption = {plain(line) for text in drawing.figure.texts[1:3] for line in text.get_text().split("\n")}
    assert words - on_page == caption
    assert drawing.title in on_page


def words_in(root: ET.Element) -> set[str]:
    return {"".join(each.itertext()).strip() for each in root.iter("{http://www.w3.org/2000/svg}text")}


@pytest.mark.parametrize("name", figures.NAMES)
def test_what_a_page_shows_is_as_high_as_what_stands_on_it(name: Name) -> None:
    """The room of the study's title and of the caption is gone, and no other text with it."""
    page, file = svg(name), ET.fromstring(figures.to_bytes(whole()[name], "svg"))
    _, top, width, height = map(float, page.get("viewBox", "").split())
    _, _, file_width, file_height = map(float, file.get("viewBox", "").split())
    assert width == file_width
    assert page.get("height") == f"{height:.6g}pt"
    assert top > 0
    assert top + height < file_height - 6
    title = next(each for each in page.iter() if each.get("transform", "").startswith("translate(0 "))
    assert float(title.get("transform", "").removeprefix("translate(0 ").removesuffix(")")) == top
    assert "".join(title.itertext()).split() == whole()[name].title.split()


def test_rendered_together_a_drawing_has_the_bytes_that_it_has_one_by_one() -> None:
    drawing = whole()["heatmap"]
    rendered = figures.render(drawing)
    assert rendered.files == {kind: figures.to_bytes(drawing, kind) for kind in figures.KINDS}
    assert rendered.page == figures.to_svg(drawing)


def test_a_page_of_thousands_of_panels_is_still_a_png_that_can_be_shown() -> None:
    tall = Drawing("progressive", "", "", "", Figure(figsize=(1, 400)))
    data = figures.to_bytes(tall, "png")
    assert struct.unpack(">II", data[16:24]) == (80, 32_000)
    assert tall.figure.dpi == Figure().dpi


# ----------------------------------------------------------------------------------------------------------------- text


def test_evil_models_and_titles_are_drawn_as_they_are() -> None:
    # Three depths are the fewest that make a curve: it is the texts that are drawn here.
    models = [SMALL.model_copy(update={"name": text, "layers": 2}) for text in EVIL.values()]
    plans = [plan for model in models for plan in progressive_plans(model=model)]
    frame = a_frame(plans, [result(plan.cell, 1, 0.5) for plan in plans])
    drawings = figures.draw_all(frame, title=EVIL["reads a file in LaTeX"])
    for drawing in drawings.values():
        assert r"\input{/etc/passwd} & 5% #1 $x^2$ a_b ~" in said(drawing)
        assert all(line.isprintable() for line in said(drawing).split("\n"))
        assert drawing.alt.isprintable()
        assert drawing.caption.isprintable()
    root = ET.fromstring(figures.to_svg(drawings["progressive"]))
    assert not [element for element in root.iter() if element.tag.endswith("}script")]


def test_characters_that_the_font_lacks_are_replaced() -> None:
    assert drawable("a汉b") == "a\N{REPLACEMENT CHARACTER}b"


def test_lines_fit_their_width_and_words_that_do_not_are_cut() -> None:
    lines = wrapped("short " * 20 + "m" * 80, 1.0, 7).split("\n")
    assert all(text_inches(line, 7) <= 1.0 for line in lines)
    assert "".join(lines).replace(" ", "") == "short" * 20 + "m" * 80
    assert wrapped("of seeds (n = 3)", text_inches("of seeds (n =", 7), 7) == "of seeds\n(n = 3)"


def test_every_line_differs_from_every_other_in_colour_or_dash_and_in_marker() -> None:
    looks = [look(colour, form, 4) for colour in range(4) for form in range(2)]
    assert len({each.marker for each in looks}) == 8
    assert len({(each.colour, str(each.dash)) for each in looks}) == 8


def test_the_recipe_of_the_paper_is_named_where_recipes_differ() -> None:
    plans = progressive_plans() + family("p", [preserving(k) for k in range(5)], weight_decay=0.1)
    titles = [axes.get_title("left").replace("\n", " ") for axes in panels(of(plans))]
    assert titles == ["sst2, the paper's recipe", "sst2, weight_decay 0.1"]
    assert Recipe().weight_decay == 0.0
