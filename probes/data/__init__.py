"""What probes learn from: what they are to read (`targets`; `loading` from a user's file), at which tokens (`roles`),
programs with its labels (`examples`), folds by skeleton (`folds`), permuted labels (`permuted`), and a model's
activations at their tokens (`activations`, run in the order of a `schedule`; `activation_cache`; of ours or, by a
`token_map`, any other; as a data frame, `activation_table`)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "activation_cache",
        "activation_table",
        "activations",
        "examples",
        "folds",
        "loading",
        "permuted",
        "roles",
        "schedule",
        "targets",
        "token_map",
    ],
)
