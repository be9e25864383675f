"""Claims about the progressive curve: how much of the gain the first k layers bring, at how much data (E1-E3, E7)."""

from collections.abc import Sequence
from itertools import pairwise

from aggregate.claim import Part
from aggregate.contrasts import Scores, Student, difference, positive, student, welch
from aggregate.evidence import is_above, is_within
from aggregate.grid import Subject
from aggregate.judging import MARGIN, compared, missing, part, shown
from aggregate.shares import Share, ShareDifference, no_gain
from aggregate.text import counted

_TENTH = "10% of the gain"


def dependence(subject: Subject) -> Part:
    """E1: the share that the first third of the layers recovers differs between the largest and smallest size."""
    k, depth = subject.scaled(4), subject.depth
    if lacking := _lacking(subject, 0, k, depth, sizes=2):
        return lacking
    sizes = subject.having(0, k, depth)
    shares = {size: _share(subject, size, k) for size in sizes}
    apart = ShareDifference(shares[sizes[-1]], shares[sizes[0]])
    ends = f"{subject.place(sizes[-1])} minus {subject.place(sizes[0])}"
    return part(
        subject.title,
        [
            compared(
                f"share of the gain at k = {k}",
                ends,
                apart,
                is_within(apart, MARGIN).opposite,
                bound=MARGIN,
                meaning="10 points of share, on either side",
            )
        ],
        beside=[shown(f"share of the gain at k = {k}", subject.place(size), share) for size, share in shares.items()],
    )


def worthless(subject: Subject) -> Part:
    """E2: the first two layers help at the largest size and are worth nothing at the smallest."""
    k, depth = subject.scaled(2), subject.depth
    if lacking := _lacking(subject, 0, k, depth, sizes=2):
        return lacking
    small, *_, large = subject.having(0, k, depth)
    helps, nothing = _share(subject, large, k), _share(subject, small, k)
    what = f"share of the gain that the first {counted(k, 'layer')} bring"
    either = f"{_TENTH}, on either side of none"
    return part(
        subject.title,
        [
            compared(what, subject.place(large), helps, is_above(helps, MARGIN), bound=MARGIN, meaning=_TENTH),
            compared(what, subject.place(small), nothing, is_within(nothing, MARGIN), bound=MARGIN, meaning=either),
        ],
    )


def depth_with_less_data(subject: Subject) -> Part:
    """E3: redrawing the upper half loses more at the smallest size than at the largest."""
    k, depth = subject.scaled(6), subject.depth
    if lacking := _lacking(subject, 0, k, depth, sizes=2):
        return lacking
    sizes = subject.having(0, k, depth)
    for size in (sizes[0], sizes[-1]):
        gain = student(list(subject.gain(size).values()))
        if not positive(gain):
            return missing(subject.title, f"{subject.place(size)}: {no_gain(gain.interval)}")
    losses = {size: _loss(subject, size, k) for size in sizes}
    pairs = [(sizes[0], sizes[-1]), *(pairwise(sizes) if len(sizes) > 2 else ())]
    what = f"loss from k = {depth} to k = {k}"
    (ends, apart), *steps = [
        (f"{subject.place(one)} minus {subject.place(other)}", across(losses[one], losses[other]))
        for one, other in pairs
    ]
    by_size = [shown(what, subject.place(size), student(list(loss.values()))) for size, loss in losses.items()]
    return part(
        subject.title,
        [compared(what, ends, apart, is_above(apart, 0), meaning="no difference")],
        beside=[*(shown(what, each, known) for each, known in steps), *by_size],
    )


def _loss(subject: Subject, size: str, k: int) -> Scores:
    curve = subject.curve(size)
    return difference(curve[subject.depth], curve[k])


def across(one: Scores, other: Scores) -> Student:
    """Difference between two sizes: paired where both have the same seeds, else by Welch.

    Pairing alone would use 3 of the 50 seeds at 500 examples where the larger size has 3. The rows of the sizes are
    nested and otherwise new, so that little is shared beside the seed; what is, widens Welch's interval.
    """
    if set(one) == set(other):
        return student(list(difference(one, other).values()))
    return welch(list(one.values()), list(other.values()))


def _share(subject: Subject, size: str, k: int, start: int = 0) -> Share:
    curve = subject.curve(size)
    return Share(difference(curve.get(k, {}), curve.get(start, {})), subject.gain(size))


_FIRST_LAYERS = ("qnli",)
_MIDDLE_LAYERS = ("cola", "sst2")
_SIZE = "5000"


def by_task(subjects: Sequence[Subject]) -> list[Part]:
    """E7: of QNLI the first third brings most of the gain; CoLA and SST-2 need the middle third too."""
    parts = []
    for name in (*_FIRST_LAYERS, *_MIDDLE_LAYERS):
        found = [subject for subject in subjects if subject.task == name]
        judge = _first_layers if name in _FIRST_LAYERS else _middle_layers
        parts += [judge(subject) for subject in found] or [missing(name, f"no task {name} in this frame")]
    return parts


def _first_layers(subject: Subject) -> Part:
    k, depth = subject.scaled(4), subject.depth
    if lacking := _lacking(subject, 0, k, depth):
        return lacking
    size = _chosen(subject.having(0, k, depth))
    share = _share(subject, size, k)
    what, where = f"share of the gain that the first {counted(k, 'layer')} bring", subject.place(size)
    meaning = "most of the gain: half"
    return part(where, [compared(what, where, share, is_above(share, 0.5), bound=0.5, meaning=meaning)])


def _middle_layers(subject: Subject) -> Part:
    k, upto, depth = subject.scaled(4), subject.scaled(8), subject.depth
    if lacking := _lacking(subject, 0, k, upto, depth):
        return lacking
    size = _chosen(subject.having(0, k, upto, depth))
    share = _share(subject, size, upto, k)
    what, where = f"share of the gain that layers {k} to {upto - 1} add", subject.place(size)
    return part(where, [compared(what, where, share, is_above(share, MARGIN), bound=MARGIN, meaning=_TENTH)])


def _chosen(sizes: Sequence[str]) -> str:
    return _SIZE if _SIZE in sizes else sizes[-1]


def _lacking(subject: Subject, *ks: int, sizes: int = 1) -> Part | None:
    """What keeps a subject from being judged: a model too shallow for these k to differ, or cells not there."""
    named = ", ".join(f"k = {k}" for k in ks)
    if len(set(ks)) < len(ks):
        return missing(subject.title, f"a model of {subject.depth} layers is too shallow for {named}")
    having = subject.having(*ks)
    if len(having) >= sizes:
        return None
    need = f"needs {named} of the progressive curve"
    if sizes == 1:
        return missing(subject.title, f"{need}; the frame has no size with all of them")
    found = ", ".join(having) or "none"
    return missing(subject.title, f"{need} at two sizes; the frame has them at: {found}")
