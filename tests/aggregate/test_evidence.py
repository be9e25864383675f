import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from aggregate.contrasts import student
from aggregate.evidence import Evidence, all_of, any_of, holm, is_above, is_below, is_within

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)
VALUES = st.lists(st.integers(-900, 900).map(lambda each: each / 1000), min_size=2, max_size=8, unique=True)


def test_holms_adjusted_p_values_are_those_of_the_textbook() -> None:
    # Sorted .005 .01 .03 .04: times 4, 3, 2, 1 = .02 .03 .06 .04, and no smaller than the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(P_VALUES)
def test_holm_never_makes_a_p_value_smaller_keeps_their_order_and_never_exceeds_one(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= one <= 1 for p, one in zip(p_values, adjusted, strict=True))
    by_p = [one for _, one in sorted(zip(p_values, adjusted, strict=True))]
    assert by_p == sorted(by_p)


@given(P_VALUES, st.floats(0.001, 0.5))
def test_holm_rejects_what_his_procedure_rejects_step_by_step(p: list[float], level: float) -> None:
    rejected = set()
    for rank, index in enumerate(sorted(range(len(p)), key=lambda each: p[each])):
        if p[index] * (len(p) - rank) > level:
            break
        rejected.add(index)
    assert {index for index, adjusted in enumerate(holm(p)) if adjusted <= level} == rejected


@given(P_VALUES)
def test_holm_lies_between_no_correction_and_bonferroni_and_above_the_false_discovery_rate(p: list[float]) -> None:
    bonferroni = [min(1.0, len(p) * each) for each in p]
    discovery = false_discovery_control(p, method="bh")
    for one, upper, lower in zip(holm(p), bonferroni, discovery, strict=True):
        assert lower - 1e-12 <= one <= upper + 1e-12


@given(VALUES, st.floats(-1, 1))
def test_above_a_bound_is_the_whole_interval_on_that_side(values: list[float], bound: float) -> None:
    known = student(values)
    low, high = known.interval.low, known.interval.high
    assert low is not None
    assert high is not None
    expected = "holds" if low > bound else "fails" if high < bound else "not enough data"
    assert is_above(known, bound).verdict == expected
    assert is_below(known, bound) == is_above(known, bound).opposite


@given(VALUES, st.floats(0.01, 0.5))
def test_within_a_margin_is_the_whole_interval_inside_and_not_within_is_it_beyond_one_end(
    values: list[float], margin: float
) -> None:
    known = student(values)
    low, high = known.interval.low or 0, known.interval.high or 0
    inside, beyond = -margin < low and high < margin, low > margin or high < -margin
    expected = "holds" if inside else "fails" if beyond else "not enough data"
    assert is_within(known, margin).verdict == expected


def test_all_of_needs_every_part_and_fails_by_one_after_paying_for_the_others() -> None:
    sure, unsure, against = Evidence(0.001, 0.999), Evidence(0.4, 0.6), Evidence(0.99, 0.01)
    assert all_of([sure, sure]).verdict == "holds"
    assert all_of([sure, unsure]).verdict == "not enough data"
    assert all_of([sure, against]).verdict == "fails"  # .01 x 2 is below .025
    assert all_of([sure, unsure, against]).verdict == "not enough data"  # .01 x 3 is not
    assert all_of([]).verdict == "not enough data"


@given(st.lists(st.builds(Evidence, st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=6))
def test_any_of_is_not_all_of_the_opposites(parts: list[Evidence]) -> None:
    negated = all_of([part.opposite for part in parts])
    assert (any_of(parts).holds, any_of(parts).fails) == (negated.fails, negated.holds)


def test_a_part_that_could_not_be_tested_keeps_all_of_from_holding_and_any_of_from_failing() -> None:
    untested = Evidence(why="no cells")
    assert all_of([Evidence(0.001, 0.999), untested]).verdict == "not enough data"
    assert any_of([Evidence(0.999, 0.001), untested]).verdict == "not enough data"
    assert any_of([Evidence(0.02, 0.98), untested]).verdict == "holds"  # and it is not paid for
    assert any_of([untested]).verdict == "not enough data"
