"""Effects as tables: `effects.csv` with every number, and sheets for people.

Law: nothing is computed here. No interval stands without its n, and no p-value without what it was adjusted for.
"""

from collections.abc import Iterable, Sequence
from typing import Final, Literal

from aggregate.claim import Unit
from aggregate.effects import MONOTONE, Alignment, Effects, LayerEffect, OrderCorrelation, Where
from aggregate.stats import Interval
from aggregate.tables import NONE, Sheet, bounds, number
from aggregate.text import counted


def sheets(effects: Effects) -> list[Sheet]:
    """A table for each kind of effect that there is."""
    found = [
        _layer_sheet("Necessity: loss when only these layers are redrawn", "loss", effects.necessity),
        _layer_sheet("Sufficiency: gain over k = 0 when only these layers are kept", "gain", effects.sufficiency),
        _alignment_sheet(effects.alignment),
        _order_sheet(effects.orders),
    ]
    return [sheet for sheet in found if sheet.rows]


def _layer_sheet(title: str, measure: str, effects: Sequence[LayerEffect]) -> Sheet:
    lines = [
        (
            *_place(each.where),
            _joined(each.layers),
            number(each.effect.mean, sign=True),
            bounds(each.effect, sign=True),
            bounds(each.simultaneous, sign=True),
            number(each.share.mean),
            bounds(each.share),
            NONE if each.p_holm is None else f"{each.p_holm:.3g}",
            str(each.effect.n),
            each.effect.note or each.share.note,
        )
        for each in effects
    ]
    header = (
        "task", "size", "layers", measure, "95% interval", "simultaneous", "share of the gain", "95% interval",
        "p (Holm)", "n", "note",
    )  # fmt: skip
    note = (
        "Paired by seed, t intervals, n counts seeds. The 95% interval is for one effect alone; the simultaneous ones "
        "(Bonferroni) and p (two-sided, Holm) are for all effects of as many layers at the same task and size."
    )
    return Sheet(title, header, tuple(lines), frozenset(range(3, 10)), notes=(note,))


def _alignment_sheet(aligned: Sequence[Alignment]) -> Sheet:
    lines = [
        (
            *_place(each.where),
            each.probe,
            *(number(each.gap.mean), bounds(each.gap)),
            *(number(each.pearson.mean), bounds(each.pearson)),
            *(number(each.spearman.mean), bounds(each.spearman)),
            str(each.gap.n),
            each.gap.note,
        )
        for each in aligned
    ]
    header = (
        "task", "size", "probe", "largest gap", "95% interval", "Pearson", "95% interval", "Spearman", "95% interval",
        "n", "note",
    )  # fmt: skip
    notes = (f"Curves rescaled to their own gain from k = 1 to the top; {MONOTONE}.",)
    title = "Probing against the progressive curve"
    return Sheet(title, header, tuple(lines), frozenset(range(3, 10)), notes=notes)


def _order_sheet(pairs: Sequence[OrderCorrelation]) -> Sheet:
    lines = [
        (
            *_place(each.where),
            each.other_task,
            *(number(each.pearson.mean), bounds(each.pearson)),
            *(number(each.spearman.mean), bounds(each.spearman)),
            counted(each.pearson.n, "order"),
            each.pearson.note,
        )
        for each in pairs
    ]
    header = ("task", "size", "with", "Pearson", "95% interval", "Spearman", "95% interval", "n", "note")
    notes = ("Over orders of the layers, seeds averaged first. Pearson by Fisher, Spearman by Bonett and Wright.",)
    return Sheet("How tasks agree about orders", header, tuple(lines), frozenset({3, 4, 5, 6}), notes=notes)


def _place(where: Where) -> tuple[str, str]:
    return where.task, where.size


def records(effects: Effects) -> list[dict[str, object]]:
    """Every effect as one row of `effects.csv`, all with the same columns."""
    rows = [_layer_record("necessity", "loss", each) for each in effects.necessity]
    rows += [_layer_record("sufficiency", "gain", each) for each in effects.sufficiency]
    for aligned in effects.alignment:
        measures = {"largest gap": aligned.gap, "pearson": aligned.pearson, "spearman": aligned.spearman}
        for measure, interval in measures.items():
            rows.append(_record("alignment", aligned.where, measure, interval, other=aligned.probe))
    for pair in effects.orders:
        for measure, interval in {"pearson": pair.pearson, "spearman": pair.spearman}.items():
            rows.append(_record("orders", pair.where, measure, interval, other=pair.other_task, unit="order"))
    return rows


def _layer_record(kind: Literal["necessity", "sufficiency"], measure: str, effect: LayerEffect) -> dict[str, object]:
    return _record(kind, effect.where, measure, effect.effect, layers=effect.layers) | {
        "share": effect.share.mean,
        "share_low": effect.share.low,
        "share_high": effect.share.high,
        "share_note": effect.share.note,
        "simultaneous_low": effect.simultaneous.low,
        "simultaneous_high": effect.simultaneous.high,
        "p": effect.p,
        "p_holm": effect.p_holm,
        "tested_together": effect.family,
    }


HEADER: Final = (
    "effect", "model", "recipe", "task", "size", "rows", "layers", "compared_with", "measure", "mean", "low", "high",
    "level", "n", "unit", "note", "share", "share_low", "share_high", "share_note", "simultaneous_low",
    "simultaneous_high", "p", "p_holm", "tested_together",
)  # fmt: skip
"""Columns of `effects.csv`; what does not apply is empty."""


def _record(
    kind: str, where: Where, measure: str, interval: Interval, *,
    layers: Sequence[int] = (), other: str = "", unit: Unit = "seed",
) -> dict[str, object]:  # fmt: skip
    known = {
        "effect": kind,
        "model": where.model,
        "recipe": where.recipe,
        "task": where.task,
        "size": where.size,
        "rows": where.rows,
        "layers": _joined(layers),
        "compared_with": other,
        "measure": measure,
        "mean": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "level": interval.level,
        "n": interval.n,
        "unit": unit,
        "note": interval.note,
    }
    return dict.fromkeys(HEADER) | known


def _joined(layers: Iterable[int]) -> str:
    return " ".join(map(str, layers))
