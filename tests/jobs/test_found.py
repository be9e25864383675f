"""Which of several objects counts is a rule about time and hashes, and never about scores or the order of reading."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.found import Damaged, Found, Verified, settle, verify
from jobs.result import DivergedRun, RunResult
from tests.make import a_cell, a_diverged, a_provenance, a_result

CELL = a_cell()
DIGEST = CELL.digest
HERE = a_provenance(device="here")
THERE = a_provenance(device="there")


def settled(*results: RunResult | DivergedRun) -> Found:
    return settle(DIGEST, [Verified(result.key, result) for result in results])


runs = st.one_of(
    st.builds(
        lambda seed, score, later, where: a_result(CELL, seed, score=score, later=later, provenance=where),
        st.integers(1, 2),
        st.sampled_from([0.1, 0.5, 0.9]),
        st.integers(0, 2),
        st.sampled_from([HERE, THERE]),
    ),
    st.builds(
        lambda seed, later, where: a_diverged(CELL, seed, later=later, provenance=where),
        st.integers(1, 2),
        st.integers(0, 2),
        st.sampled_from([HERE, THERE]),
    ),
)


@given(st.lists(runs, max_size=6), st.data())
def test_the_order_of_reading_changes_nothing(results: list[RunResult | DivergedRun], data: st.DataObject) -> None:
    damaged = [Damaged("runs/b", "cut"), Damaged("runs/a", "cut")]
    verified = [Verified(result.key, result) for result in results]
    shuffled: Sequence[Verified] = data.draw(st.permutations(verified))
    assert settle(DIGEST, verified, damaged) == settle(DIGEST, [*shuffled, *verified[:1]], damaged[::-1])


@given(st.lists(runs, max_size=6))
def test_every_run_with_an_object_is_either_accepted_or_contradictory(results: list[RunResult | DivergedRun]) -> None:
    found = settled(*results)
    contradictory = {each.seed for each in found.contradictions}
    assert found.done == {result.seed for result in results}
    assert not contradictory & set(found.results)
    assert list(found.results) == sorted(found.results)
    for seed, accepted in found.results.items():
        assert accepted.finished_at == min(result.finished_at for result in results if result.seed == seed)


@given(st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=2, max_size=2), st.booleans())
def test_which_result_counts_does_not_depend_on_scores(scores: list[float], swapped: bool) -> None:
    early, late = scores[::-1] if swapped else scores
    found = settled(a_result(score=late, later=1, provenance=THERE), a_result(score=early, provenance=HERE))
    accepted = found.results[1]
    assert isinstance(accepted, RunResult)
    assert accepted.score == early


def test_of_two_at_one_instant_the_smaller_hash_counts() -> None:
    results = [a_result(provenance=HERE, wall_seconds=float(seconds)) for seconds in range(1, 6)]
    found = settled(*results)
    assert found.results[1].key == min((one.key for one in results), key=lambda key: key.split(".")[2])


def test_equal_results_of_one_numerics_version_are_duplicates_without_a_difference() -> None:
    found = settled(a_result(provenance=HERE), a_result(provenance=HERE, later=5))
    assert found.contradictions == ()
    assert found.duplicates[0].largest_difference == 0


def test_the_host_is_no_excuse_for_a_contradiction() -> None:
    one = a_result(score=0.5, provenance=a_provenance(host="a"))
    other = a_result(score=0.6, provenance=a_provenance(host="b"), later=1)
    assert settled(one, other).contradictions[0].keys == (one.key, other.key)


def test_other_predictions_with_equal_scores_are_a_contradiction() -> None:
    assert settled(a_result(), a_result(predictions="f" * 64)).contradictions


def test_diverged_under_one_numerics_version_and_scored_under_the_same_is_a_contradiction() -> None:
    assert settled(a_result(provenance=HERE), a_diverged(provenance=HERE)).contradictions
    found = settled(a_result(provenance=HERE), a_diverged(provenance=THERE, later=1))
    assert found.contradictions == ()
    assert found.duplicates[0].largest_difference is None


def test_a_contradiction_in_one_numerics_version_is_not_settled_by_another() -> None:
    a, b = a_result(score=0.5, provenance=HERE, later=1), a_result(score=0.6, provenance=HERE, later=2)
    found = settled(a_result(score=0.5, provenance=THERE), a, b)
    assert found.results == {}
    assert [each.keys for each in found.contradictions] == [(a.key, b.key)]


def test_what_took_its_time_and_does_not_count_is_spare() -> None:
    early, late = a_result(provenance=HERE), a_result(provenance=THERE, later=5)
    assert settled(late, early).spare == (late,)
    assert settled(early).spare == ()
    a, b = a_result(seed=2, score=0.5), a_result(seed=2, score=0.6, later=1)
    assert settled(early, b, late, a).spare == (late, a, b)


@pytest.mark.parametrize("result", [a_result(), a_diverged()], ids=["done", "diverged"])
def test_an_object_made_by_this_program_verifies(result: RunResult | DivergedRun) -> None:
    assert verify(result.key, result.to_bytes()) == Verified(result.key, result)
