"""What families are put together from: the base class (`family`), `expressions` and the `numbers` that they compute,
`statements`, `definitions`, `predicates`, `structured` (structure first, then digits), and `pieces`, the strings that a
program is joined of."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "definitions",
        "expressions",
        "family",
        "numbers",
        "pieces",
        "predicates",
        "statements",
        "structured",
    ],
)
