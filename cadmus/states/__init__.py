"""What a probe may be asked of the machine: `variables` (the state at every token), `hindsight` (states that later
tokens decide), `alternatives` (other machines, at graded distance) and `provenance` (where every value comes from and
which tokens read it; `provenance_plain` for one text). Programs and traces enter, labels and rows leave."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["alternatives", "hindsight", "provenance", "provenance_plain", "provenance_rows", "variables"],
)
