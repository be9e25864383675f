import pytest

from aggregate.coverage import Extras, coverage, notes, problems, refuse_holes
from jobs.cell import Reinit
from jobs.errors import DataError
from jobs.found import Contradiction, Damaged, Duplicate
from tests.aggregate.runs import a_frame, cell, planned, preserving, progressive_plans, rising, scored
from tests.make import a_diverged, a_failure

PLANS = progressive_plans()


def test_a_complete_study_is_accepted() -> None:
    refuse_holes(a_frame(PLANS, scored(PLANS, rising)), Extras(), studies=("a-study",))


def test_one_missing_run_is_refused_by_name_with_a_remedy() -> None:
    results = scored(PLANS, rising)[:-1]
    with pytest.raises(DataError) as caught:
        refuse_holes(a_frame(PLANS, results), Extras(), studies=("a-study",))
    text = str(caught.value)
    assert "1 of 15 runs have no score" in text
    assert f"missing: {PLANS[-1].cell.name}, seed 3" in text
    assert "reinit run a-study" in text
    assert "--allow-partial" in text
    assert caught.value.exit_code == 65


def test_an_empty_store_is_refused() -> None:
    with pytest.raises(DataError, match="15 of 15 runs have no score"):
        refuse_holes(a_frame(PLANS, []), Extras(), studies=("a-study",))


def test_many_problems_are_named_in_part_and_counted_on_one_screen() -> None:
    with pytest.raises(DataError) as caught:
        refuse_holes(a_frame(PLANS, []), Extras(damaged=(Damaged("runs/x", "truncated"),)), studies=("a-study",))
    assert "and 11 more" in str(caught.value)
    assert len(str(caught.value).splitlines()) < 24


@pytest.mark.parametrize(
    ("extras", "word"),
    [
        (Extras(damaged=(Damaged("runs/a/1.json", "sha256 differs"),)), "damaged: runs/a/1.json: sha256 differs"),
        (
            Extras(contradictions=(Contradiction("a", 1, ("runs/a/1.x.json", "runs/a/1.y.json")),)),
            "contradiction: runs/a/1.x.json against runs/a/1.y.json",
        ),
    ],
)
def test_damage_and_contradictions_are_refused_even_when_every_run_has_a_score(extras: Extras, word: str) -> None:
    with pytest.raises(DataError) as caught:
        refuse_holes(a_frame(PLANS, scored(PLANS, rising)), extras, studies=("a-study",))
    assert word in str(caught.value)


def test_a_diverged_run_is_refused_and_not_sent_to_run_again() -> None:
    one = cell()
    with pytest.raises(DataError) as caught:
        refuse_holes(a_frame([planned(one, seeds=(1,))], [a_diverged(one, 1)]), Extras(), studies=("a-study",))
    assert "diverged: sst2-500-finetune" in str(caught.value)
    assert "reinit run" not in str(caught.value)


def test_what_went_wrong_is_said_without_its_control_characters() -> None:
    one = cell()
    frame = a_frame(
        [planned(one, seeds=(1,))], [], failures=[a_failure(one, 1, reason="no\nmemory\x1b[31m" + "x" * 500)]
    )
    (line,) = problems(frame, Extras())
    assert line.startswith(f"failed: {one.name}, seed 1: no memory\\x1b[31mxxx")
    assert len(line) < 300


def test_coverage_counts_every_status_by_setting_by_family_and_in_total() -> None:
    shared, other = cell(preserving(3)), cell(Reinit(layers=(1,)))
    plans = [planned(shared, families=("progressive", "single")), planned(other, families=("single",), seeds=(1, 2))]
    frame = a_frame(plans, [*scored(plans[:1], rising), a_diverged(other, 2)])
    table = coverage(frame)[["size", "family", "planned", "done", "diverged", "missing"]]
    assert table.to_numpy().tolist() == [
        ["500", "all", 5, 3, 1, 1],
        ["500", "progressive", 3, 3, 0, 0],
        ["500", "single", 5, 3, 1, 1],
        ["all", "all", 5, 3, 1, 1],
    ]


def test_a_share_never_rounds_to_all_or_to_nothing() -> None:
    plans = [planned(cell(), seeds=tuple(range(2_000)))]
    (row, _, _) = coverage(a_frame(plans, scored(plans, rising)[1:])).to_dict("records")
    assert (row["done_percent"], row["missing_percent"]) == (99.9, 0.1)
    assert (row["diverged_percent"], row["failed_percent"]) == (0, 0)


def test_results_of_seeds_outside_the_plan_are_not_coverage() -> None:
    one = cell()
    frame = a_frame([planned(one, seeds=(1,))], scored([planned(one, seeds=(2, 3))], rising))
    assert coverage(frame)["planned"].tolist() == [1, 1, 1]
    assert coverage(frame)["done"].tolist() == [0, 0, 0]
    assert "Results of seeds outside the plan, listed in runs.csv and in no mean: 2." in " ".join(
        notes(frame, Extras())
    )


def test_duplicates_are_noted_with_their_largest_difference_and_not_refused() -> None:
    plans = [planned(cell(), seeds=(1,))]
    frame = a_frame(plans, scored(plans, rising))
    extras = Extras(duplicates=(Duplicate(plans[0].cell.digest, 1, ("x", "y"), 0.0125),))
    refuse_holes(frame, extras, studies=("a-study",))
    (note,) = notes(frame, extras)
    assert note.startswith(
        f"duplicate: {plans[0].cell.name}, seed 1: 2 results, largest difference of a metric 0.0125;"
    )


def test_a_complete_study_has_nothing_to_note() -> None:
    assert notes(a_frame(PLANS, scored(PLANS, rising)), Extras()) == []
