"""Pairs of programs that differ in one value of the machine's state, and what the machine says must follow of its
exchange: which values a variable names (`variables`), prompts and what they ask for (`prompts`), what they may be
exchanged with (`substitutes`, `choice`); pairs drawn (`drawing`) or made of programs of one's own (`own_programs`), as
`pairs` and `tables`, their values' `roles`; completions judged by the machine (`judging`)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "choice",
        "drawing",
        "judging",
        "own_programs",
        "pairs",
        "prompts",
        "roles",
        "substitutes",
        "tables",
        "variables",
    ],
    submod_attrs={
        "drawing": ["draw"],
        "judging": ["chance", "counting", "judge"],
        "own_programs": ["from_programs"],
        "pairs": ["KINDS", "Pairs"],
        "variables": ["VARIABLES", "Occurrence", "PairVariable"],
    },
)
