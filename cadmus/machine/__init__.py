"""The integer virtual machine: `values`, `instructions` (one table), `vm` (the plain machine), `compiled` (the same
in numba, one file, since numba's cache watches a file only), `kernel` (the compiled machine's interface, on arrays of
programs), `oracle` (what follows from an edited state, which continuations are true; `edits`: places and values) and
`tokens` (text to arrays and back). Programs enter, states leave. Imports nothing of the project."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["compiled", "edits", "instructions", "jit", "kernel", "notebook", "oracle", "tokens", "values", "vm"],
)
