"""Figures as files: PDF and PNG for papers, SVG for pages.

Law: a drawing gives the same bytes whenever it is written with one version of the library: no dates, no random ids. An
SVG is complete in itself and can stand beside others in one page: it holds its description, no style that reaches
further, and only ids that begin with its own name. A page that sets title and caption as text has the same drawing cut
to what is between them: nothing is drawn twice.
"""

import copy
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG

from aggregate.figures.drawing import Drawing
from aggregate.figures.page import styled
from aggregate.figures.style import FONT, LABEL_POINTS, SMALL_POINTS, lines_inches
from aggregate.text import visible

FileKind = Literal["pdf", "png", "svg"]
KINDS: Final[tuple[FileKind, ...]] = get_args(FileKind)

PNG_DPI: Final = 300
MOST_PIXELS: Final = 32_000
"""Of a PNG's side: many viewers show at most 32,767, and the memory for one grows with it."""

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_HREF = f"{{{_XLINK}}}href"
_NO_DATE: Final = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
}


@dataclass(frozen=True)
class Rendered:
    """A drawing written in every way."""

    files: Mapping[FileKind, bytes]
    page: str
    """What `to_svg` gives."""


def render(drawing: Drawing) -> Rendered:
    """The drawing as each kind of file and for a page, with one pass over it for each kind."""
    root = ET.fromstring(_saved(drawing, "svg"))  # noqa: S314  written by the library a moment ago
    page = _standalone(_cut(copy.deepcopy(root), drawing), drawing).decode("utf-8")
    written = {kind: _standalone(root, drawing) if kind == "svg" else _saved(drawing, kind) for kind in KINDS}
    return Rendered(written, page)


def to_bytes(drawing: Drawing, kind: FileKind) -> bytes:
    """The drawing as a file."""
    saved = _saved(drawing, kind)
    return _standalone(ET.fromstring(saved), drawing) if kind == "svg" else saved  # noqa: S314  as in `render`


def to_svg(drawing: Drawing) -> str:
    """The drawing as an `<svg>` element, to stand inside a page: no prologue, and nothing in it leaks out.

    Without the study's title and the caption, which the page sets as text.
    """
    root = ET.fromstring(_saved(drawing, "svg"))  # noqa: S314  as in `render`
    return _standalone(_cut(root, drawing), drawing).decode("utf-8")


def _saved(drawing: Drawing, kind: FileKind) -> bytes:
    """What the library writes.

    `Figure.savefig` would go over the figure twice, the first time to lay out what is laid out already; its canvases go
    once, and give the same bytes.
    """
    figure, out = drawing.figure, io.BytesIO()
    # Their methods have no types.
    canvases: dict[FileKind, Any] = {"pdf": FigureCanvasPdf, "png": FigureCanvasAgg, "svg": FigureCanvasSVG}
    before = figure.dpi
    if kind == "png":
        figure.dpi = min(PNG_DPI, int(MOST_PIXELS / max(figure.get_size_inches())))
    with styled():
        getattr(canvases[kind](figure), f"print_{kind}")(out, metadata=_NO_DATE[kind])
    figure.dpi = before
    return out.getvalue()


def _cut(root: ET.Element, drawing: Drawing) -> ET.Element:
    """Without the study's title and the caption, and without the room that they took; the figure's title moves down."""
    texts = {text.get_gid(): text.get_text() for text in drawing.figure.texts}
    top = 72 * lines_inches(texts["study"], LABEL_POINTS)
    bottom = 72 * lines_inches(texts["caption"], SMALL_POINTS)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.get("id") in ("study", "caption"):
                parent.remove(child)
            elif child.get("id") == "title":
                child.set("transform", f"translate(0 {top:.6g})")
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    left = f"{height - top - bottom:.6g}"
    root.set("viewBox", f"0 {top:.6g} {width:.6g} {left}")
    root.set("height", f"{left}pt")
    return root


def _standalone(root: ET.Element, drawing: Drawing) -> bytes:
    _rename_ids(root, f"reinit-{drawing.name}-")
    _describe(root, drawing)
    for element in root.iter():
        if style := element.get("style"):
            element.set("style", style.replace(f"'{FONT}'", f"'{FONT}', Verdana, sans-serif"))
    for parent in list(root.iter()):  # the library's style rule would hold for the whole page
        for child in [each for each in parent if each.tag == f"{{{_SVG}}}style"]:
            parent.remove(child)
    root.set("style", "stroke-linejoin: round; stroke-linecap: butt; max-width: 100%; height: auto")
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    return f"{ET.tostring(root, encoding='unicode')}\n".encode()


def _rename_ids(root: ET.Element, prefix: str) -> None:
    """Number the ids that something refers to, and drop the others: names by which groups were made mean nothing."""
    used: dict[str, str] = {}
    for element in root.iter():
        for name, value in element.attrib.items():
            for target in _references(name, value):
                used.setdefault(target, f"{prefix}{len(used) + 1}")
    for element in root.iter():
        for name, value in list(element.attrib.items()):
            if name == "id":
                element.attrib.pop("id")
                if value in used:
                    element.set("id", used[value])
            elif targets := _references(name, value):
                for target in targets:
                    value = value.replace(f"#{target}", f"#{used[target]}")  # noqa: PLW2901  a new value for one attribute
                element.set(name, value)


def _references(name: str, value: str) -> list[str]:
    if name == _HREF:
        return [value.removeprefix("#")] if value.startswith("#") else []
    return re.findall(r"url\(#([^)]+)\)", value)


def _describe(root: ET.Element, drawing: Drawing) -> None:
    """Title and description, which a screen reader says in place of the picture."""
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    title, desc = ET.Element(f"{{{_SVG}}}title"), ET.Element(f"{{{_SVG}}}desc")
    title.text, desc.text = visible(drawing.title), visible(drawing.alt)
    title.set("id", f"reinit-{drawing.name}-title")
    desc.set("id", f"reinit-{drawing.name}-desc")
    root[:0] = [title, desc]
    root.set("role", "img")
    root.set("aria-labelledby", f"reinit-{drawing.name}-title reinit-{drawing.name}-desc")
