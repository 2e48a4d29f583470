"""How a page names the sites of a table: by their layers where those tell them apart, else by their hook names."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from probes.data.activations import layer_of

MAX_NAMED = 12  # sites that an axis names, cells with a number side by side
_LETTER = 0.058  # inches of a site's name, written upwards


def is_residual(site: str) -> bool:
    """Whether a site is the residual stream between blocks, so that its layer names it."""
    return site.endswith((".hook_resid_pre", ".hook_resid_post"))


def layers_name(sites: list[str]) -> bool:
    """Whether layers tell these sites apart."""
    return all(map(is_residual, sites)) and len(set(map(layer_of, sites))) == len(sites)


def location_column(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """The column that says where the rows are from: the layer, or the site where some lie outside the residual
    stream."""
    return {"layer": rows.layer} if rows.site.map(is_residual).all() else {"site": rows.site}


@dataclass(frozen=True)
class SiteAxis:
    """The sites along an x axis."""

    sites: list[str]
    """Hook names, in the order of the axis."""
    by_layer: bool
    """Whether the axis names them by their layers, or else by their hook names."""

    @classmethod
    def of(cls, table: pd.DataFrame) -> SiteAxis:
        """The axis of all sites of the table; of more than it can name, only the residual stream's, one per layer."""
        sites = list(table.site.unique())
        stream = {layer_of(site): site for site in sites if is_residual(site)}
        if len(sites) > MAX_NAMED and len(stream) > 1:
            sites = list(stream.values())
        by_layer = layers_name(sites)
        return cls(sorted(sites, key=layer_of) if by_layer else sites, by_layer)

    @classmethod
    def all(cls, table: pd.DataFrame) -> SiteAxis:
        """The axis of all sites of the table, however many."""
        sites = list(table.site.unique())
        return cls(sites, layers_name(sites))

    @property
    def name(self) -> str:
        """The label of the axis."""
        return "layer (0: embedding)" if self.by_layer else "site"

    @property
    def labels(self) -> list:
        """The name of each site on the axis: its layer, or its hook name."""
        return list(map(layer_of, self.sites)) if self.by_layer else self.sites

    @property
    def room(self) -> float:
        """How many inches the labels take beneath the axis, beyond what numbers take."""
        return 0.0 if self.by_layer else _LETTER * max(map(len, self.sites))

    @property
    def line(self) -> str:
        """The style of a line from site to site; sites in no order are not joined."""
        return "-" if self.by_layer else ""

    def rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows at these sites, in the order of the axis, with the place of each on it as `x`."""
        x = dict(zip(self.sites, self.labels if self.by_layer else range(len(self.sites)), strict=True))
        table = table[table.site.isin(self.sites)]
        return table.assign(x=table.site.map(x).astype(float)).sort_values("x", kind="stable")

    def label(self, ax: Axes) -> None:
        """Set the ticks of a panel and their labels."""
        if self.by_layer:
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        else:
            ax.set_xticks(range(len(self.sites)), self.sites, rotation=90, fontsize=6.5)
            ax.set_xlim(-0.5, len(self.sites) - 0.5)


def omitted_note(table: pd.DataFrame) -> str:
    """The sentence that a caption needs where `SiteAxis.of` leaves sites out; empty where it has all."""
    missing = table.site.nunique() - len(SiteAxis.of(table).sites)
    return f" {missing} other sites are in the table only." if missing else ""
