"""Figures as files: PDF and PNG for papers, SVG for pages.

Law: a drawing gives the same bytes whenever it is written with one version of the library: no dates, no random ids. An
SVG is complete in itself and can stand beside others in one page: it holds its description, no style that reaches
further, and only ids that begin with its own name.
"""

import io
import re
import xml.etree.ElementTree as ET
from typing import Final, Literal, get_args

from aggregate.figures.drawing import Drawing
from aggregate.figures.page import styled
from aggregate.figures.style import FONT
from aggregate.text import visible

FileKind = Literal["pdf", "png", "svg"]
KINDS: Final[tuple[FileKind, ...]] = get_args(FileKind)

PNG_DPI: Final = 300

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_HREF = f"{{{_XLINK}}}href"
_NO_DATE: Final = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
}


def to_bytes(drawing: Drawing, kind: FileKind) -> bytes:
    """The drawing as a file."""
    out = io.BytesIO()
    with styled():
        drawing.figure.savefig(out, format=kind, dpi=PNG_DPI, metadata=_NO_DATE[kind])
    return _standalone(out.getvalue(), drawing) if kind == "svg" else out.getvalue()


def to_svg(drawing: Drawing) -> str:
    """The drawing as an `<svg>` element, to stand inside a page: no prologue, and nothing in it leaks out."""
    return to_bytes(drawing, "svg").decode("utf-8")


def _standalone(svg: bytes, drawing: Drawing) -> bytes:
    root = ET.fromstring(svg)  # noqa: S314  written by the library a moment ago
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
