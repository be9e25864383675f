from aggregate.paper import paper_sheets
from aggregate.stats import mean_interval
from jobs.cell import Probe, Reinit
from jobs.tasks import GLUE
from tests.aggregate.runs import a_frame, every_family, family, merged, preserving, progressive_plans, rising, scored


def test_a_row_per_depth_and_a_column_per_size_larger_ones_first() -> None:
    plans = progressive_plans(size=100) + progressive_plans(size="full") + progressive_plans(task=GLUE["cola"])
    first, second = paper_sheets(a_frame(plans, scored(plans, rising)))
    assert first.header == ("k", "all (n = 3)", "100 (n = 3)")
    assert [row[0] for row in first.rows] == ["4", "3", "2", "1", "0"]
    assert first.title == "sst2: accuracy (validation) by preserved layers k and training examples"
    assert second.header == ("k", "500 (n = 3)")


def test_a_number_is_the_mean_and_half_the_width_of_its_interval() -> None:
    plans = progressive_plans()
    scores = {1: 0.8, 2: 0.9, 3: 1.0}
    (sheet,) = paper_sheets(a_frame(plans, scored(plans, lambda _, seed: scores[seed])))
    high = mean_interval(list(scores.values())).high
    assert sheet.rows[0] == ("4", "0.900 ± 0.248")
    assert high is not None
    assert f"{high - 0.9:.3f}" == "0.248"


def test_a_number_short_of_runs_says_how_many_it_has_and_is_loud() -> None:
    plans = progressive_plans()
    results = [one for one in scored(plans, rising) if (one.digest, one.seed) != (plans[1].cell.digest, 2)]
    results = [one for one in results if one.digest != plans[2].cell.digest]
    (sheet,) = paper_sheets(a_frame(plans, results))
    assert sheet.rows[1][1].endswith("(2 of 3)")
    assert sheet.rows[2][1] == "– (0 of 3)"
    assert sheet.loud == {1, 2}
    assert sheet.notes[-1].startswith("INCOMPLETE: planned runs without a score: 4;")


def test_where_seeds_are_more_the_rows_are_named() -> None:
    plans = merged(progressive_plans(), family("more", [Reinit(), preserving(0)], tuple(range(1, 11))))
    (sheet,) = paper_sheets(a_frame(plans, scored(plans, rising)))
    assert sheet.header == ("k", "500 (n = 3)")
    assert "500: n = 10 at k = 4, 0." in sheet.notes


def test_probes_stand_beside_the_main_variant_and_a_variant_has_a_table_of_its_own() -> None:
    plans = every_family()
    main, kept, faster = paper_sheets(a_frame(plans, scored(plans, rising)))
    assert main.header == (
        "k",
        "500 (n = 3)",
        "100 (n = 10)",
        "probe by the recipe, 500 (n = 3)",
        "probe fitted to convergence, 500 (n = 3)",
    )
    assert main.rows[-1][3] == "–"
    assert kept.title.startswith("sst2, LayerNorm kept: ")
    assert faster.title.startswith("sst2, learning rate ×5: ")


def test_a_study_without_progressive_cells_has_no_such_table() -> None:
    plans = family("probe", [Probe(depth=k) for k in (1, 2, 3)])
    assert paper_sheets(a_frame(plans, scored(plans, rising))) == []
