"""Hooks: functions that read or edit a model's activations at named sites, and never fail silently.

An edit reaches what it is meant to reach, and nothing else: what a function is shown is its own (a copy, unless the
function is marked by `never_writes`), listeners belong to the thread that set them, and no copy of a model has any.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from cadmus.runtime.tables import did_you_mean


@dataclass(frozen=True)
class Hook:
    """Passed to hook functions, like TransformerLens's HookPoint: the name and layer of the site."""

    name: str
    """The site."""

    ctx: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """For hook functions to leave something in, by site and thread, until `Model.reset_hooks`."""

    def layer(self) -> int:
        """The block's number; ValueError for a site outside the blocks."""
        if not self.name.startswith("blocks."):
            raise ValueError(f"site {self.name!r} belongs to no block")
        return int(self.name.split(".")[1])


HookFn = Callable[..., Tensor | None]
"""`fn(activation, hook)` or `fn(activation, *, hook)`: what it returns takes the activation's place; for None, what it
has written into the activation does."""

SiteSelector = str | Callable[[str], bool]
"""A site, or a predicate on sites."""

NamesFilter = None | SiteSelector | Iterable[str]
"""A site, several, a predicate, or None for all of them."""

DIRECTIONS = ("fwd", "bwd")  # listeners of activations, and of the gradients by them


# --- hook functions --------------------------------------------------------------------------------------------------

_Function = TypeVar("_Function", bound=Callable)
_Edit = Callable[[Tensor, Hook], Tensor]  # what goes on in the tensor's place


def never_writes(fn: _Function) -> _Function:
    """Mark a hook function that never writes into the tensor that it is shown: it is shown without a copy.

    It may return another tensor. Activations are often views of one another (q, k and v of one product; the positions
    of all rows), so that a function which does write there would change more than its site.
    """
    fn.never_writes = True  # type: ignore[attr-defined]  # functions take attributes
    return fn


def as_edit(fn: HookFn) -> _Edit:
    """`fn` as a function of (tensor, hook) that leaves the tensor as it is and returns what goes on in its place.

    An edit in place and the same edit on a copy give the same. Raises TypeError where `fn` returns no tensor,
    ValueError where it returns one of another shape.
    """
    by_name = _takes_hook_by_name(fn)
    copies = getattr(fn, "never_writes", False) is not True

    def edit(tensor: Tensor, hook: Hook) -> Tensor:
        own = tensor.clone() if copies else tensor
        result = fn(own, hook=hook) if by_name else fn(own, hook)
        if result is None:
            return own
        if not isinstance(result, Tensor):
            raise TypeError(f"a hook at {hook.name!r} returned a {type(result).__name__}; return a tensor, or None")
        if result.shape != tensor.shape:
            raise ValueError(
                f"a hook at {hook.name!r} returned shape {tuple(result.shape)} in place of {tuple(tensor.shape)}; "
                "return a tensor of the same shape, or None"
            )
        return result

    return edit


def _takes_hook_by_name(fn: HookFn) -> bool:
    """Whether the second argument is to be given as `hook=`, as TransformerLens gives it: `partial(fn, pos=2)` may
    leave no other way."""
    try:
        parameters = inspect.signature(fn).parameters
    except (TypeError, ValueError):  # what is not written in Python may have none
        return False
    if "hook" in parameters:
        return parameters["hook"].kind is not inspect.Parameter.POSITIONAL_ONLY
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


# --- the registry ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Listener:
    """A function that was set at a site."""

    site: str
    """Where."""

    edit: _Edit
    """The function, as `as_edit` makes it."""

    direction: str = "fwd"
    """One of `DIRECTIONS`."""

    permanent: bool = False
    """Whether `HookRegistry.reset` leaves it, unless asked for these too."""

    home: dict[str, list[Listener]] = field(default_factory=dict, repr=False)
    """The listeners by site among which it is set: those of the thread that set it."""

    has_fired: bool = False
    """Whether it has been called."""

    is_removed: bool = False
    """Whether it has been taken away: a gradient may come when the forward pass is long over."""

    def __call__(self, tensor: Tensor, hook: Hook) -> Tensor:
        """What goes on in the tensor's place."""
        if self.direction == "fwd":
            self.has_fired = True
            return self.edit(tensor, hook)
        if not (torch.is_grad_enabled() and tensor.requires_grad):
            return tensor
        tensor = tensor.view_as(tensor)  # a node of its own: what is returned goes on backward from this site alone

        def on_gradient(gradient: Tensor) -> Tensor | None:
            if self.is_removed:
                return None
            self.has_fired = True
            return self.edit(gradient, hook)

        tensor.register_hook(on_gradient)
        return tensor


class _ThreadState(threading.local):
    """What one thread has set."""

    def __init__(self) -> None:
        self.listeners: dict[str, list[Listener]] = {}  # by site; none is empty
        self.contexts: dict[str, dict[str, Any]] = {}  # by site: `Hook.ctx`


class HookRegistry:
    """Hook registry: which functions run at which site. Without hooks a site costs one look at a bool.

    `regular` are the sites that every forward pass computes, `on_demand` those computed only while a hook is set there.
    A copy of it, pickled or deep, has the same sites and no listeners: these belong to one thread of one model.
    """

    def __init__(self, regular: list[str], on_demand: list[str]) -> None:
        self.regular = regular
        self.on_demand = on_demand
        self.active = False  # whether any thread has set a hook anywhere: all that a compiled model looks at
        self._own = _ThreadState()
        self._n_set = 0  # of all threads
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple:
        return HookRegistry, (self.regular, self.on_demand)

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """Hand the activation to the hooks at site `name`, one after the other; returns what they make of it."""
        if not self.active:
            return tensor
        listeners = self._own.listeners.get(name)
        if listeners is None:
            return tensor
        hook = self.hook(name)
        for listener in [listener for listener in listeners if listener.direction == "fwd"]:
            tensor = listener(tensor, hook)
        for listener in [listener for listener in listeners if listener.direction == "bwd"][::-1]:
            tensor = listener(tensor, hook)  # the last one meets the gradient first
        return tensor

    def hook(self, name: str) -> Hook:
        """What functions at this site are given, with what this thread left in its `ctx`."""
        return Hook(name, self._own.contexts.setdefault(name, {}))

    def has_hook(self, *names: str) -> bool:
        """Whether this thread has set a hook at one of these sites; without names, at any."""
        if not self.active:
            return False
        listeners = self._own.listeners
        return any(name in listeners for name in names) if names else bool(listeners)

    def resolve(self, selector: SiteSelector) -> list[str]:
        """`resolve_sites` among all sites, those on demand too."""
        return resolve_sites(self.regular + self.on_demand, selector)

    def add(
        self,
        selector: SiteSelector,
        fn: HookFn,
        direction: str = "fwd",
        *,
        permanent: bool = False,
        first: bool = False,
    ) -> list[Listener]:
        """Set `fn` at each selected site, for this thread, until it is removed; `first` puts it before the others."""
        if direction not in DIRECTIONS:
            raise ValueError(f"direction {direction!r} is none of 'fwd' (activations) and 'bwd' (their gradients)")
        return self._set(self.resolve(selector), as_edit(fn), direction, permanent, first)

    def _set(
        self, sites: list[str], edit: _Edit, direction: str, permanent: bool = False, first: bool = False
    ) -> list[Listener]:
        home = self._own.listeners
        additions = [Listener(site, edit, direction, permanent, home) for site in sites]
        for listener in additions:
            listeners = home.setdefault(listener.site, [])
            listeners.insert(0 if first else len(listeners), listener)
        self._count(len(additions))
        return additions

    def remove(self, listeners: Iterable[Listener]) -> None:
        """Take away what `add` has set, as far as it is still there."""
        n_removed = 0
        for listener in listeners:
            if listener.is_removed:
                continue
            listener.is_removed = True
            n_removed += 1
            at_site = listener.home[listener.site]
            at_site.remove(listener)
            if not at_site:
                del listener.home[listener.site]
        self._count(-n_removed)

    def reset(self, direction: str = "both", including_permanent: bool = False, clear_contexts: bool = True) -> None:
        """Take away all that this thread has set (in one direction), and what hook functions left in `Hook.ctx`."""
        listeners = [listener for at_site in self._own.listeners.values() for listener in at_site]
        self.remove(
            listener
            for listener in listeners
            if direction in (listener.direction, "both") and (including_permanent or not listener.permanent)
        )
        if clear_contexts:
            self.clear_contexts()

    def clear_contexts(self) -> None:
        """Drop what hook functions of this thread left in `Hook.ctx`."""
        self._own.contexts.clear()

    def _count(self, change: int) -> None:
        with self._lock:
            self._n_set += change
            self.active = self._n_set > 0

    @contextlib.contextmanager
    def hooks(
        self,
        fwd_hooks: Iterable[tuple[SiteSelector, HookFn]],
        bwd_hooks: Iterable[tuple[SiteSelector, HookFn]] = (),
    ) -> Iterator[None]:
        """Within the context, call `fn(tensor, hook)` at each selected site; see `Model.hooks`."""
        additions: list[list[Listener]] = []  # of each hook
        edits: dict[int, _Edit] = {}  # by the function's id: one function is often set at many sites, one by one
        try:
            for direction, hooks in zip(DIRECTIONS, (fwd_hooks, bwd_hooks), strict=True):
                for selector, fn in hooks:
                    sites = self.resolve(selector)
                    if id(fn) not in edits:
                        edits[id(fn)] = as_edit(fn)  # keeps the function, and so its id
                    additions.append(self._set(sites, edits[id(fn)], direction))
            yield
        finally:
            self.remove(listener for listeners in additions for listener in listeners)
        for direction, way in zip(DIRECTIONS, ("forward", "backward"), strict=True):
            silent = [
                [listener.site for listener in listeners]
                for listeners in additions
                if listeners[0].direction == direction and not any(listener.has_fired for listener in listeners)
            ]
            if silent:
                raise ValueError(f"{_hooks_at(silent)} never fired: no {way} pass within the context came there")


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
