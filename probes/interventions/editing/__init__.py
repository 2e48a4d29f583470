"""Edits of a model and what they do: maps of activations (`changes`), where they act (`edits`; `locations` of sites),
many arms run side by side (`engine`: on our model by `partial_passes` and `continuations`, on any by `plain` hooks,
both by way of `application`), and the interventions that have a name, as tables (`patching`, `paths`).

In come a model, programs and arms; out go logits, completions and tidy tables."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "application",
        "changes",
        "continuations",
        "edits",
        "engine",
        "locations",
        "partial_passes",
        "patching",
        "paths",
        "plain",
    ],
    submod_attrs={
        "edits": ["EdgeEdit", "Edit"],
    },
)
