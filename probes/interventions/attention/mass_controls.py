"""Edges of attention that weigh as much as others do: what a knock-out of edges is held against.

The control of some edges is as much attention in the same head, else in its layer: `elsewhere`, on edges that no value
flows along, and `no_flow`, from queries that take no value at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

MASS_CONTROLS = ("elsewhere", "no_flow")
TOLERANCE = 0.1  # how far a control's mass may lie from the edges'
SMALL = 0.01  # heads with less attention on some edges are left as they are, and edges with less are no control


@dataclass(frozen=True)
class Prompt:
    """The attention of one prompt."""

    row: int
    """Its number."""
    attention: np.ndarray
    """float [head of all layers, query, key]."""
    cut: int
    """How long it is, which is the position that the answer is predicted at."""
    flow: np.ndarray
    """int64 [m, 2]: all its data-flow edges, (query, key)."""

    def candidates(self, name: str) -> np.ndarray:
        """Which edges may be a control: bool [query, key]."""
        n = self.attention.shape[1]
        out = np.tri(n, k=-1, dtype=np.bool_)  # a query keeps its own key, so that it is never left without one
        out[0] = False
        out[self.cut + 1 :] = False
        out[self.flow[:, 0], self.flow[:, 1]] = False
        if name == "no_flow":
            out[self.flow[:, 0]] = False
        return out


@dataclass(frozen=True)
class Finder:
    """Finds edges of equal mass."""

    n_layers: int
    """Of the model."""
    n_heads: int
    """In each layer."""
    parts: dict[tuple[str, int], list[np.ndarray]] = field(default_factory=dict)
    """By kind and head (numbered over all layers), the edges of each prompt: int64 [k, 5], as `EdgeSet.edges`."""
    matches: dict[tuple[str, int, str], list[np.ndarray]] = field(default_factory=dict)
    """By kind, head and control, the edges of equal mass of each prompt that has some: the same. No edge stands for two
    heads of a layer, so that what is blocked for all of them together weighs as much as they do."""
    weights: dict[tuple[str, int, str], list[np.ndarray]] = field(default_factory=dict)
    """The attention on each of these edges: float [k], beside `matches`."""

    def find(
        self,
        prompt: Prompt,
        kind: str,
        own: np.ndarray,
        masses: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        """Note the edges own int64 [k, 2] of one prompt, their mass in every head (masses float [head, n]), and their
        controls."""
        own = np.unique(own, axis=0)
        attention = prompt.attention[:, own[:, 0], own[:, 1]]  # [head, edge]
        last_layer = (self.n_layers - 1) * self.n_heads
        reaches = own[:, 0] == prompt.cut  # what the last layer's other queries read reaches no answer
        attention[last_layer:] *= reaches
        masses[:, prompt.row] = attention.sum(1)
        heads = np.flatnonzero(masses[:, prompt.row] >= SMALL)
        for head in heads.tolist():
            layer, number = divmod(head, self.n_heads)
            edges = own[reaches] if head >= last_layer else own
            self.parts.setdefault((kind, head), []).append(_edge_rows(prompt.row, layer, number, edges))
        for name in MASS_CONTROLS:
            free = prompt.attention * prompt.candidates(name)  # [head, query, key], 0 for what may not be taken
            free[last_layer:, np.arange(free.shape[1]) != prompt.cut] = 0
            for layer in np.unique(heads // self.n_heads).tolist():
                block = slice(layer * self.n_heads, (layer + 1) * self.n_heads)
                for number, edges in _matches(free[block], masses[block, prompt.row], rng).items():
                    key = kind, layer * self.n_heads + number, name
                    weights = prompt.attention[block][tuple(edges.T)]
                    rows = np.column_stack([np.full((len(edges), 2), [prompt.row, layer]), edges])
                    self.matches.setdefault(key, []).append(rows.astype(np.int64))
                    self.weights.setdefault(key, []).append(weights)


def _matches(free: np.ndarray, masses: np.ndarray, rng: np.random.Generator) -> dict[int, np.ndarray]:
    """Edges of equal mass for the heads of a layer, no edge twice: int64 [k, 3] by the number of the head.

    Each head's own edges come first, then those of other heads that are left, for the largest mass first. free float
    [head, query, key]: the attention that may be taken, which is 0 afterwards where it was; masses [head].
    """
    out: dict[int, np.ndarray] = {}
    heads = [head for head in np.argsort(-masses, kind="stable").tolist() if masses[head] >= SMALL]
    for is_own in (True, False):
        for head in heads:
            if head in out:
                continue
            group = [k for k in range(len(masses)) if (k == head) == is_own]
            edges = of_equal_mass(free[group], float(masses[head]), rng)
            if edges is not None:
                edges[:, 0] = np.array(group)[edges[:, 0]]
                free[tuple(edges.T)] = 0
                out[head] = edges
    return out


def of_equal_mass(attention: np.ndarray, mass: float, rng: np.random.Generator) -> np.ndarray | None:
    """Edges of attention [head, query, key] that have the mass together: int64 [m, 3], as few as a greedy search finds.

    One edge, drawn among those that fit; else the largest that fit beneath it, from a query drawn first. None where
    there are none.
    """
    low, high = (1 - TOLERANCE) * mass, (1 + TOLERANCE) * mass
    one = np.argwhere((attention >= low) & (attention <= high))
    if len(one):
        return one[[int(rng.integers(len(one)))]]
    edges = np.argwhere((attention >= SMALL) & (attention < low))
    sizes = attention[tuple(edges.T)]
    order = np.lexsort((-sizes, rng.permutation(attention.shape[1])[edges[:, 1]]))  # query by query
    total, chosen_rows = 0.0, []
    for row in order.tolist():
        if total + sizes[row] <= high:
            total += sizes[row]
            chosen_rows.append(row)
        if total >= low:
            return edges[chosen_rows]
    return None


def _edge_rows(row: int, layer: int, head: int, edges: np.ndarray) -> np.ndarray:
    out = np.empty((len(edges), 5), np.int64)
    out[:, :3] = row, layer, head
    out[:, 3:] = edges
    return out
