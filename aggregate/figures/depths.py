"""Figures over depth: progressive with probing, LayerNorm kept against reset, learning rates against each other.

Law: a variant that differs from another in one field stands beside it in that field's figure; any other variant has
panels of its own among the progressive ones. A probe's line stands in the panel of its task, whatever its recipe.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

from aggregate.curves import Curve, differing_fields, same_task, size_key, size_words
from aggregate.figures.captions import alt, caption
from aggregate.figures.charts import Panel, Series, Theirs, draw_panel, legend, thin_look
from aggregate.figures.drawing import Drawing, Material, Name
from aggregate.figures.style import Look, look

Compared = Literal["keep_layernorm", "lr_scale"]
_KINDS = ("progressive", "truncate", "probe")

_WHAT = {
    "progressive": "The layers above the preserved ones are redrawn at random, then the whole network is finetuned.",
    "truncate": "Truncated: the layers above are cut off, and the rest is finetuned.",
    "probe": "Probe: a classifier alone is trained on the frozen first layers; its depth is their number.",
}


def progressive(material: Material) -> Drawing | None:
    """Score against preserved layers, a panel per task and a line per size, probes beside them."""
    groups = _main_groups(material)
    if not groups:
        return None
    drawn = [curve for group in groups for curve in group]
    title = "Progressive reinitialisation" if any(one.kind == "progressive" for one in drawn) else "Probing"
    title += " and probing" if {"progressive", "probe"} <= {one.kind for one in drawn} else ""
    what = " ".join(text for kind, text in _WHAT.items() if any(one.kind == kind for one in drawn))
    return _draw(material, "progressive", title, what, groups)


def layernorm(material: Material) -> Drawing | None:
    """Redrawn layers that keep their pretrained LayerNorm, against those that do not."""
    what = f"{_WHAT['progressive']} The redrawn layers keep their pretrained LayerNorm, or have it reset to 1 and 0."
    return _draw(material, "layernorm", "LayerNorm kept against reset", what, _pairs(material, "keep_layernorm"))


def learning_rate(material: Material) -> Drawing | None:
    """A learning rate of their own for the redrawn layers, against one for all."""
    what = f"{_WHAT['progressive']} The redrawn layers learn at a multiple of the others' rate, or at the same."
    groups = _pairs(material, "lr_scale")
    return _draw(material, "learning-rate", "Learning rate of the redrawn layers", what, groups)


# -------------------------------------------------------------------------------------------------- what stands where


def _main_groups(material: Material) -> list[list[Curve]]:
    """The curves of each panel: one for each task, then one for each variant that no other figure has."""
    found = [curve for curve in material.curves if curve.kind in _KINDS]
    redrawn = [curve for curve in found if curve.kind == "progressive"]
    elsewhere = {id(curve) for field in _FIELDS for pair in _pairs(material, field) for curve in pair}
    groups = []
    for variant in sorted({curve.variant: None for curve in redrawn}, key=lambda each: each != material.main):
        own = [curve for curve in redrawn if curve.variant == variant]
        if variant != material.main:
            own = [curve for curve in own if id(curve) not in elsewhere]
        for context in dict.fromkeys(curve.setting.context for curve in own):
            lines = [curve for curve in own if curve.setting.context == context]
            groups.append(lines + _beside(lines, material, variant, found))
    seen = {id(curve) for group in groups for curve in group}
    alone = [curve for curve in found if curve.kind != "progressive" and id(curve) not in seen]
    contexts = dict.fromkeys(curve.setting.context for curve in alone)
    return groups + [[curve for curve in alone if curve.setting.context == context] for context in contexts]


def _beside(lines: list[Curve], material: Material, variant: str, found: Iterable[Curve]) -> list[Curve]:
    """Truncated networks and probes beside the main variant; the main variant beside any other."""
    if variant == material.main:
        return [one for one in found if one.kind != "progressive" and same_task(one, lines[0])]
    sizes = {curve.setting.size for curve in lines}
    return [
        one
        for one in found
        if one.kind == "progressive" and one.variant == material.main
        and one.setting.context == lines[0].setting.context and one.setting.size in sizes
    ]  # fmt: skip


_FIELDS: tuple[Compared, ...] = ("keep_layernorm", "lr_scale")


def _pairs(material: Material, field: Compared) -> list[list[Curve]]:
    """For each task the curves with and without, sizes with both alone."""
    redrawn = [curve for curve in material.curves if curve.kind == "progressive"]
    by_context: dict[str, list[Curve]] = {}
    for curve in redrawn:
        if (partner := _partner(curve, redrawn, field)) is not None:
            group = by_context.setdefault(curve.setting.context, [])
            group += [each for each in (partner, curve) if all(each is not other for other in group)]
    return list(by_context.values())


def _partner(curve: Curve, others: Iterable[Curve], field: Compared) -> Curve | None:
    """The same redraw without what the field adds; of one recipe if there is one."""
    plain, allowed = {"keep_layernorm": (False, set()), "lr_scale": (1, {"frozen"})}[field]
    if curve.fields[field] == plain:
        return None
    fitting = [
        one
        for one in others
        if one.fields[field] == plain and one.setting.size == curve.setting.size and same_task(one, curve)
        and differing_fields(one, curve) - allowed == {field}
    ]  # fmt: skip
    return min(fitting, key=lambda one: one.setting.context != curve.setting.context, default=None)


# ------------------------------------------------------------------------------------------------------------- drawing


def _draw(material: Material, name: Name, title: str, what: str, groups: Sequence[Sequence[Curve]]) -> Drawing | None:
    if not groups:
        return None
    panels = _panels(material, name, groups)
    notes = material.authors.notes([curve for group in groups for curve in group]) if material.authors else []
    cells = [cell for panel in panels for cell in panel.cells]
    text = caption(what, cells, *notes, chance=any(panel.chance is not None for panel in panels))
    titles = [panel.title for panel in panels]
    drawing, axes = material.draw(name, title, titles, legend(panels), caption=text, alt=alt(title, panels))
    for one, panel in zip(axes, panels, strict=True):
        draw_panel(one, panel)
    return drawing


def _panels(material: Material, name: Name, groups: Sequence[Sequence[Curve]]) -> list[Panel]:
    # By identity: the main curve stands in the panels of other variants, too.
    unique = {id(curve): curve for group in groups for curve in group}
    drawn = sorted(unique.values(), key=lambda one: _order(one, material))
    sizes = sorted({curve.setting.size for curve in drawn}, key=size_key)
    forms = list(dict.fromkeys(_form(curve) for curve in drawn))
    heads = [_head(group, name) for group in groups]
    panels = []
    for group, head in zip(groups, heads, strict=True):
        ordered = [curve for curve in drawn if any(curve is each for each in group)]
        looks = [_look(sizes.index(one.setting.size), forms.index(_form(one)), len(sizes)) for one in ordered]
        series = zip((_label(one, name, group) for one in ordered), looks, (one.points for one in ordered), strict=True)
        panel = Panel(
            title=material.panel_title(
                head.setting, [one.setting for one in heads], head.variant if _is_apart(head, name, material) else ""
            ),
            metric=head.setting.metric,
            xlabel=_xlabel(group),
            across=(min(one.points[0][0] for one in group), head.setting.depth),
            chance=head.setting.chance,
            series=tuple(Series(*each) for each in series),
            theirs=_theirs(material, ordered, looks),
        )
        panels.append(panel)
    return panels


def _head(group: Sequence[Curve], name: Name) -> Curve:
    """The curve that a panel is about: what is compared, and not what it is compared with."""
    return group[0] if name == "progressive" else group[-1]


def _is_apart(head: Curve, name: Name, material: Material) -> bool:
    """Whether a panel among the progressive ones belongs to another variant than the main one."""
    return name == "progressive" and head.kind == "progressive" and head.variant != material.main


def _form(curve: Curve) -> tuple[str, str]:
    return curve.kind, curve.variant


def _order(curve: Curve, material: Material) -> tuple[int, bool, float]:
    """Lines of the main variant first, then others, truncated networks, probes; in each larger sizes first."""
    return _KINDS.index(curve.kind), curve.variant != material.main, size_key(curve.setting.size)


def _look(size: int, form: int, sizes: int) -> Look:
    """Colour by size, form by variant; with one size alone colours are free for the variants."""
    return look(size, form, sizes) if sizes > 1 else look(form, form, 1)


def _label(curve: Curve, name: Name, among: Sequence[Curve]) -> str:
    words = {"progressive": curve.variant, "truncate": "truncated", "probe": f"probe {curve.variant}"}[curve.kind]
    if name == "layernorm":
        words = "LayerNorm kept" if curve.fields["keep_layernorm"] else "LayerNorm reset"
    if name == "learning-rate":
        scale = curve.fields["lr_scale"]
        words = "one learning rate" if scale == 1 else f"learning rate ×{scale:g}"
        frozen = curve.fields["frozen"]
        words += f", layers {', '.join(map(str, frozen))} never trained" if frozen else ""
    recipes = {one.setting.recipe for one in among}
    parts = [size_words(curve.setting.size), words]
    parts += [curve.setting.recipe or "the paper's recipe"] * (len(recipes) > 1)
    return ", ".join(part for part in parts if part)


def _xlabel(group: Sequence[Curve]) -> str:
    kinds = {curve.kind for curve in group}
    words = ["preserved layers" if len(kinds) > 1 else "preserved pretrained layers"] * ("progressive" in kinds)
    words += ["layers kept"] * ("truncate" in kinds and "progressive" not in kinds)
    words += ["probe depth"] * ("probe" in kinds)
    return " / ".join(words)


def _theirs(material: Material, drawn: Sequence[Curve], looks: Sequence[Look]) -> tuple[Theirs, ...]:
    """The authors' values for each size once: beside the line that is nearest to what they ran."""
    if material.authors is None:
        return ()
    nearest = material.authors.nearest(drawn)
    return tuple(
        Theirs(beside.label, thin_look(each.colour, "1" if one.kind == "probe" else "+"), beside.runs, beside.points)
        for one, each in zip(drawn, looks, strict=True)
        if (beside := nearest.get(id(one))) is not None
    )
