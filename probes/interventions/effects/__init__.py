"""What edits come to: what happened to each pair (`outcomes`), one table of effects beside every control (`effects`),
the words for them (`verdicts`), and whether a value is tracked at its store or looked up at its load (`mechanism`).
Numbers only: no model enters."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "effects",
        "mechanism",
        "outcomes",
        "verdicts",
    ],
)
