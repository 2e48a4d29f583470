"""Figures as files: the same figure gives the same bytes, wherever its objects lie in memory."""

from __future__ import annotations

from matplotlib.figure import Figure

from analyses.reporting import images
from analyses.reporting.figures import theme


def figure() -> Figure:
    """Panels of unequal width with legends above them: what the layout's solver has to settle."""
    with theme():
        drawn = Figure(figsize=(9.2, 3.5), layout="constrained")
        for ax, n in zip(drawn.subplots(1, 3, sharey=True, width_ratios=(1.2, 1.0, 0.7)), (6, 4, 2), strict=True):
            for name in ("first", "second", "third"):
                ax.plot(range(n), [len(name)] * n, label=name)
            ax.set_xticks(range(n), [f"{k} or more" for k in range(n)])
            ax.legend(frameon=False, fontsize=7, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return drawn


def test_the_same_figure_gives_the_same_bytes() -> None:
    """Drawn often enough that the last bits of what the solver finds differ."""
    elsewhere = []  # keeps memory taken, so that each figure lies at another place
    drawings = []
    for k in range(20):
        elsewhere.append([object() for _ in range(1237 * k % 5000)])
        drawings.append(images.draw(figure()))
    assert len({drawing.png for drawing in drawings}) == 1
    assert len({drawing.svg for drawing in drawings}) == 1


def test_places_are_round_and_the_layout_is_settled() -> None:
    """Whatever the solver found: an SVG names its clips by the places of the axes, to the last bit."""
    drawn = figure()
    images.draw(drawn)
    for ax in drawn.axes:
        bounds = ax.get_position(original=True).bounds
        assert all(abs(place - round(place, 6)) < 1e-12 for place in bounds)
