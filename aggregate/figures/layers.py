"""Figures over place: blocks of layers redrawn or kept, and single layers.

Law: the same cell is compared with the same two levels everywhere: plain finetuning, and all layers redrawn.
"""

from collections.abc import Sequence

from aggregate.curves import Curve
from aggregate.figures.captions import alt, caption
from aggregate.figures.charts import Level, Panel, Series, draw_panel, legend
from aggregate.figures.drawing import Drawing, Material, Name, plain_cell
from aggregate.figures.style import PLAIN_LOOK, SCRATCH_LOOK, look
from aggregate.summary import Setting


def blocks(material: Material) -> Drawing | None:
    """Blocks of two and more layers redrawn, and all but such a block."""
    found = [curve for curve in material.curves if curve.width is not None and curve.width > 1]
    what = (
        "Blocks of consecutive layers are redrawn at random, or all layers but such a block, then the whole network is "
        "finetuned. Layer 0 is next to the embeddings."
    )
    return _draw(material, "blocks", "Localised reinitialisation", what, found)


def single_layers(material: Material) -> Drawing | None:
    """One layer redrawn, or all but one."""
    found = [curve for curve in material.curves if curve.width == 1]
    what = "One layer is redrawn at random, then the whole network is finetuned. Layer 0 is next to the embeddings."
    if any(curve.kind == "inverse" for curve in found):
        what = what.replace("One layer is redrawn", "One layer is redrawn, or all but one,")
    return _draw(material, "single-layers", "Single layers", what, found)


def _draw(material: Material, name: Name, title: str, what: str, found: Sequence[Curve]) -> Drawing | None:
    if not found:
        return None
    settings = list({(curve.setting.context, curve.setting.size): curve.setting for curve in found}.values())
    panels = [_panel(material, setting, settings, found) for setting in settings]
    levels = "Lines across: plain finetuning, and all layers redrawn (from scratch)."
    cells = [cell for panel in panels for cell in panel.cells]
    text = caption(what, cells, levels, chance=any(panel.chance is not None for panel in panels))
    titles = [panel.title for panel in panels]
    drawing, axes = material.draw(name, title, titles, legend(panels), caption=text, alt=alt(title, panels))
    for one, panel in zip(axes, panels, strict=True):
        draw_panel(one, panel)
    return drawing


def _panel(material: Material, setting: Setting, settings: Sequence[Setting], found: Sequence[Curve]) -> Panel:
    forms = list(dict.fromkeys((curve.kind, curve.width, curve.variant) for curve in found))
    own = [curve for curve in found if curve.setting is setting]
    series = []
    for curve in own:
        index = forms.index((curve.kind, curve.width, curve.variant))
        series.append(Series(_label(curve), look(index, index, 1), curve.points))
    size = f"{setting.rows:,} examples" if len({one.size for one in settings}) > 1 else ""
    return Panel(
        title=material.panel_title(setting, settings, size),
        metric=setting.metric,
        xlabel="layer" if own[0].width == 1 else "first layer of the block",
        across=(min(curve.points[0][0] for curve in own), max(curve.points[-1][0] for curve in own)),
        chance=setting.chance,
        series=tuple(series),
        levels=levels_of(material, setting),
    )


def levels_of(material: Material, setting: Setting) -> tuple[Level, ...]:
    """The two levels that a setting has."""
    plain, scratch = plain_cell(setting), material.scratch(setting)
    found = [Level("plain finetuning", PLAIN_LOOK, plain)] if plain else []
    return (*found, *([Level("all layers redrawn", SCRATCH_LOOK, scratch)] if scratch else []))


def _label(curve: Curve) -> str:
    if curve.width == 1:
        words = "the layer redrawn" if curve.kind == "block" else "all but the layer redrawn"
    else:
        words = f"{'' if curve.kind == 'block' else 'all but a '}block of {curve.width} redrawn"
    return f"{words}, {curve.variant}" if curve.variant else words
