"""Many reads at a time, bounded in memory, and what is done around them."""

import gc
from collections.abc import Iterator

import pytest

from jobs.memory import no_collection
from jobs.patient import THREADS
from jobs.streaming import TOGETHER, streamed


@pytest.mark.parametrize("count", [0, 1, TOGETHER, TOGETHER + 1, 5000])
def test_what_is_streamed_comes_in_order(count: int) -> None:
    assert list(streamed(lambda number: number * 2, range(count))) == [number * 2 for number in range(count)]


def test_only_so_much_is_read_ahead_of_who_takes_it() -> None:
    asked: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(10**6):
            asked.append(number)
            yield number

    stream = streamed(lambda number: number, numbers())
    for expected in range(100):
        assert next(stream) == expected
        assert len(asked) <= expected + (2 * THREADS + 2) * TOGETHER
    stream.close()  # type: ignore[attr-defined]  # a generator, as its callers need not know
    assert len(asked) < 10**4


def test_an_error_comes_where_its_result_would() -> None:
    def read(number: int) -> int:
        if number == 40:
            raise OSError("gone")
        return number

    taken: list[int] = []
    with pytest.raises(OSError, match="gone"):
        taken.extend(streamed(read, range(1000)))
    assert taken == list(range(len(taken)))
    assert len(taken) <= 40


def test_collection_is_on_again_afterwards_also_after_an_error_and_stays_off_where_it_was() -> None:
    def fails() -> None:
        with no_collection():
            assert not gc.isenabled()
            raise OSError("x")

    with pytest.raises(OSError, match="x"):
        fails()
    assert gc.isenabled()
    gc.disable()
    try:
        with no_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
