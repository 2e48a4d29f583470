"""What a probe may be asked of the machine: `variables` (the state at every token), `hindsight` (states that later
tokens decide) and `alternatives` (other machines, at graded distance). Programs and traces enter, labels leave."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["alternatives", "hindsight", "variables"])
