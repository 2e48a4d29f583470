"""Figures as files: SVG, which a page shows in the reader's light or dark scheme, and PNG beside it."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

_DPI = 160
_PAPER_WHITE = "w"
_SVG: Any = {  # text stays text, and the same figure gives the same bytes
    "svg.fonttype": "none",
    "svg.hashsalt": "cadmus",
    "font.family": "sans-serif",
    "figure.autolayout": False,  # so that no layout engine is what `set_layout_engine(None)` leaves
    "figure.constrained_layout.use": False,
}
_DARK_STYLE = (
    "<style>text{font-family:'DejaVu Sans',Verdana,sans-serif!important}"
    "@media (prefers-color-scheme:dark){svg{filter:invert(1) hue-rotate(180deg)}}</style>"
)
"""In the dark scheme lightness is turned over and hue kept, so that every colour bar still holds. An image's own style
is asked, and not that of the page around it, so that the file looks alike wherever it is opened."""


@dataclass(frozen=True)
class Image:
    """A figure, drawn."""

    png: bytes
    """On white."""
    svg: bytes
    """Without a ground, for light and dark."""

    @property
    def source(self) -> str:
        """The SVG as a data URI, for a page without files beside it."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg).decode()}"


def draw(figure: Figure) -> Image:
    """Draw a figure as PNG and SVG; the same figure gives the same bytes. Its ground becomes transparent."""
    with mpl.rc_context(_SVG):
        _settle_layout(figure)
        png = _saved(figure, "png", dpi=_DPI, facecolor="white")
        figure.patch.set_alpha(0.0)
        for axes in figure.axes:
            if mpl.colors.same_color(axes.get_facecolor(), _PAPER_WHITE):
                axes.patch.set_alpha(0.0)
        svg = _saved(figure, "svg", metadata={"Date": None, "Creator": None})
    text = svg.decode()
    head = text.index(">", text.index("<svg")) + 1
    return Image(png, (text[:head] + _DARK_STYLE + text[head:]).encode())


def _settle_layout(figure: Figure) -> None:
    """Lay the figure out for good, at round places: the last bits of what the solver finds depend on where its objects
    lie in memory, and an SVG names its clips by them."""
    figure.set_dpi(_DPI)
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # a placeholder would have every file drawn twice
    for axes in figure.axes:
        left, bottom, width, height = (round(place, 6) for place in axes.get_position(original=True).bounds)
        axes.set_position((left, bottom, width, height))


def _saved(figure: Figure, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()
