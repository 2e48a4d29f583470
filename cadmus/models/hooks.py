"""Hooks: functions that read or edit a model's activations at named sites, and never fail silently."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Hook:
    """What a hook function is told of its place, as TransformerLens's HookPoint."""

    name: str

    def layer(self) -> int:
        """The block's number; ValueError for a site outside the blocks."""
        if not self.name.startswith("blocks."):
            raise ValueError(f"site {self.name!r} belongs to no block")
        return int(self.name.split(".")[1])


HookFn = Callable[[Tensor, Hook], Tensor | None]
SiteSelector = str | Callable[[str], bool]  # a site, or a predicate on sites
NamesFilter = None | SiteSelector | Iterable[str]


class HookRegistry:
    """The sites of a model and who listens there. A site that nobody listens to costs a lookup.

    `regular` and `on_demand` are names; the latter are computed only while somebody listens there.
    """

    def __init__(self, regular: list[str], on_demand: list[str]) -> None:
        self.regular, self.on_demand = regular, on_demand
        self.listeners: dict[str, list[HookFn]] = {}
        self.active = False  # whether anybody listens anywhere: all that a compiled model looks at

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """Show the activation `tensor` to the listeners at `name`, one after the other; returns what they make of it"""
        for fn in self.listeners.get(name, ()) if self.active else ():
            result = fn(tensor, Hook(name))
            if result is not None and result.shape != tensor.shape:
                raise ValueError(
                    f"a hook at {name!r} returned shape {tuple(result.shape)} in place of {tuple(tensor.shape)}; "
                    "return a tensor of the same shape, or None"
                )
            tensor = tensor if result is None else result
        return tensor

    def listened(self, *names: str) -> bool:
        return self.active and any(name in self.listeners for name in names)

    def match(self, chosen: SiteSelector) -> list[str]:
        """`resolve_sites` among all sites, those on demand too."""
        return resolve_sites(self.regular + self.on_demand, chosen)

    @contextlib.contextmanager
    def hooks(self, fwd_hooks: Iterable[tuple[SiteSelector, HookFn]]) -> Iterator[None]:
        """Within the context, `fn(tensor, hook)` listens at each site chosen; see `Model.hooks`."""
        fired: set[int] = set()
        added: list[tuple[int, str, HookFn]] = []
        for number, (chosen, fn) in enumerate(fwd_hooks):

            def listen(tensor: Tensor, hook: Hook, fn: HookFn = fn, number: int = number) -> Tensor | None:
                fired.add(number)
                return fn(tensor, hook)

            added += [(number, site, listen) for site in self.match(chosen)]
        try:
            for _, site, listen in added:
                self.listeners.setdefault(site, []).append(listen)
            self.active = bool(self.listeners)
            yield
        finally:
            for _, site, listen in added:
                self.listeners[site].remove(listen)
                if not self.listeners[site]:
                    del self.listeners[site]
            self.active = bool(self.listeners)
        silent: dict[int, list[str]] = {}
        for number, site, _ in added:
            if number not in fired:
                silent.setdefault(number, []).append(site)
        if silent:
            raise ValueError(f"{_listed(silent.values())} never fired: no forward pass within the context came there")


def resolve_sites(known: list[str], chosen: SiteSelector, see: str = "model.sites()") -> list[str]:
    """The site of that name, or all that the predicate selects, of those known; `see` says where they are listed.

    ValueError for a name that does not exist, and for a predicate that selects nothing.
    """
    if callable(chosen):
        found = [site for site in known if chosen(site)]
        if not found:
            raise ValueError(f"the names_filter selects no site; see {see}")
        return found
    if chosen not in known:
        close = difflib.get_close_matches(chosen, known, 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        layers = len({site.split(".")[1] for site in known if site.startswith("blocks.")})
        raise ValueError(
            f"site {chosen!r} does not exist{hint}: the model has {layers} layers "
            f"(blocks.0 ... blocks.{layers - 1}); see {see}"
        )
    return [chosen]


def _listed(silent: Iterable[list[str]]) -> str:
    """The hooks that never fired, each by its first site."""
    said = [f"{sites[0]!r}" + (f" (and {len(sites) - 1} more)" if len(sites) > 1 else "") for sites in silent]
    return ("the hook at " if len(said) == 1 else "the hooks at ") + ", ".join(said)
