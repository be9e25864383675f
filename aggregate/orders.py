"""Claims about networks whose pretrained layers are reordered before finetuning (E8, E9).

Law: the unit is the order, its seeds averaged first. The other side enters at the seeds that the orders have, one value
a seed, and the two are compared by Welch's interval (`stats.welch_difference`).
"""

from collections.abc import Callable

from aggregate.claim import Part
from aggregate.contrasts import Scores, contrast, positive, student, welch
from aggregate.evidence import is_below
from aggregate.grid import Subject
from aggregate.judging import MARGIN, compared, missing, part, shown
from aggregate.shares import no_gain
from aggregate.stats import unit_means

Order = tuple[int, ...]


def permuted(subject: Subject, size: str) -> dict[Order, Scores]:
    """Scores by order."""
    cells = (cell for cell in subject.at(size) if cell.treatment_kind == "permute" and cell.order is not None)
    return {cell.order or (): cell.scores for cell in cells}


def order_means(orders: dict[Order, Scores]) -> dict[Order, float]:
    """One value for each order with a score: the mean over its seeds."""
    return {order: unit_means([scores.values()])[0] for order, scores in orders.items() if scores}


def harmed(subject: Subject) -> list[Part]:
    """E8: the orders' mean is below plain finetuning."""

    def judge(size: str, orders: dict[Order, Scores]) -> Part:
        plain = subject.curve(size).get(subject.depth, {})
        return _against(subject, size, orders, plain, "orders minus plain finetuning", "no difference")

    return _by_size(subject, judge)


def short(subject: Subject) -> list[Part]:
    """E9: the orders' mean is below nine tenths of the way from every layer redrawn to plain finetuning."""

    def judge(size: str, orders: dict[Order, Scores]) -> Part:
        curve, where = subject.curve(size), subject.place(size)
        if 0 not in curve or subject.depth not in curve:
            return missing(where, f"needs k = 0 and k = {subject.depth} of the progressive curve")
        gain = student(list(subject.gain(size).values()))
        if not positive(gain):
            return missing(where, no_gain(gain.interval))
        nine_tenths = contrast((1 - MARGIN, curve[subject.depth]), (MARGIN, curve[0]))
        what = "orders minus 90% of plain finetuning and 10% of every layer redrawn"
        return _against(subject, size, orders, nine_tenths, what, "90% of the gain")

    return _by_size(subject, judge)


def _by_size(subject: Subject, judge: Callable[[str, dict[Order, Scores]], Part]) -> list[Part]:
    by_size = {size: permuted(subject, size) for size in subject.sizes}
    found = [judge(size, orders) for size, orders in by_size.items() if orders]
    return found or [missing(subject.title, "no permutation cells in this frame")]


def _against(
    subject: Subject, size: str, orders: dict[Order, Scores], baseline: Scores, what: str, meaning: str
) -> Part:
    where = subject.place(size)
    means = list(order_means(orders).values())
    seeds = {seed for scores in orders.values() for seed in scores}
    known = welch(means, [score for seed, score in baseline.items() if seed in seeds])
    comparison = compared(what, where, known, is_below(known, 0), meaning=meaning, unit="order")
    return part(where, [comparison], beside=[shown("mean over orders", where, student(means), unit="order")])
