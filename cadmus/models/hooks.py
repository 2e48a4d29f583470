"""Hooks: functions that read or edit a model's activations at named sites, and never fail silently."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from cadmus.runtime.tables import did_you_mean


@dataclass(frozen=True)
class Hook:
    """Passed to hook functions, like TransformerLens's HookPoint: the name and layer of the site."""

    name: str
    """The site."""

    def layer(self) -> int:
        """The block's number; ValueError for a site outside the blocks."""
        if not self.name.startswith("blocks."):
            raise ValueError(f"site {self.name!r} belongs to no block")
        return int(self.name.split(".")[1])


HookFn = Callable[[Tensor, Hook], Tensor | None]
"""`fn(activation, hook)`: what it returns, unless None, takes the activation's place."""

SiteSelector = str | Callable[[str], bool]
"""A site, or a predicate on sites."""

NamesFilter = None | SiteSelector | Iterable[str]
"""A site, several, a predicate, or None for all of them."""


class HookRegistry:
    """Hook registry: which functions run at which site. A site without hooks costs one dictionary lookup.

    `regular` are the sites that every forward pass computes, `on_demand` those computed only while a hook is set there.
    """

    def __init__(self, regular: list[str], on_demand: list[str]) -> None:
        self.regular = regular
        self.on_demand = on_demand
        self.functions: dict[str, list[HookFn]] = {}  # by site
        self.active = False  # whether a hook is set anywhere: all that a compiled model looks at

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """Hand the activation to the hooks at site `name`, one after the other; returns what they make of it."""
        for fn in self.functions.get(name, ()) if self.active else ():
            result = fn(tensor, Hook(name))
            if result is not None and result.shape != tensor.shape:
                raise ValueError(
                    f"a hook at {name!r} returned shape {tuple(result.shape)} in place of {tuple(tensor.shape)}; "
                    "return a tensor of the same shape, or None"
                )
            tensor = tensor if result is None else result
        return tensor

    def has_hook(self, *names: str) -> bool:
        """Whether a hook is set at one of these sites."""
        return self.active and any(name in self.functions for name in names)

    def resolve(self, selector: SiteSelector) -> list[str]:
        """`resolve_sites` among all sites, those on demand too."""
        return resolve_sites(self.regular + self.on_demand, selector)

    @contextlib.contextmanager
    def hooks(self, fwd_hooks: Iterable[tuple[SiteSelector, HookFn]]) -> Iterator[None]:
        """Within the context, call `fn(tensor, hook)` at each selected site; see `Model.hooks`."""
        fired: set[int] = set()
        additions: list[tuple[int, str, HookFn]] = []  # number of the hook, site, function
        for number, (selector, fn) in enumerate(fwd_hooks):

            def call(tensor: Tensor, hook: Hook, fn: HookFn = fn, number: int = number) -> Tensor | None:
                fired.add(number)
                return fn(tensor, hook)

            additions += [(number, site, call) for site in self.resolve(selector)]
        try:
            for _, site, function in additions:
                self.functions.setdefault(site, []).append(function)
            self.active = bool(self.functions)
            yield
        finally:
            for _, site, function in additions:
                self.functions[site].remove(function)
                if not self.functions[site]:
                    del self.functions[site]
            self.active = bool(self.functions)
        silent: dict[int, list[str]] = {}
        for number, site, _ in additions:
            if number not in fired:
                silent.setdefault(number, []).append(site)
        if silent:
            raise ValueError(f"{_hooks_at(silent.values())} never fired: no forward pass within the context came there")


def resolve_sites(sites: list[str], selector: SiteSelector, see: str = "model.sites()") -> list[str]:
    """The site of that name, or all of `sites` that the predicate selects; `see` says where sites are listed.

    ValueError for a name that does not exist, and for a predicate that selects nothing.
    """
    if callable(selector):
        matches = [site for site in sites if selector(site)]
        if not matches:
            raise ValueError(f"the names_filter selects no site; see {see}")
        return matches
    if selector not in sites:
        layers = len({site.split(".")[1] for site in sites if site.startswith("blocks.")})
        raise ValueError(
            f"site {selector!r} does not exist{did_you_mean(selector, sites)}: the model has {layers} layers "
            f"(blocks.0 ... blocks.{layers - 1}); see {see}"
        )
    return [selector]


def _hooks_at(silent: Iterable[list[str]]) -> str:
    """Name hooks by their sites, each by its first: "the hooks at 'hook_embed', 'blocks.0.hook_mlp_out' (and 3 more)".

    silent: the sites of each hook.
    """
    names = [f"{sites[0]!r}" + (f" (and {len(sites) - 1} more)" if len(sites) > 1 else "") for sites in silent]
    return ("the hook at " if len(names) == 1 else "the hooks at ") + ", ".join(names)
