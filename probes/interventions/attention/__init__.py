"""Along which heads and data-flow edges a value comes to the answer: attention on the data flow (`flow`), heads
exchanged (`head_interchange`), a value's edges (`value_edges`) blocked or moved (`knockouts`) beside edges of equal
mass (`mass_controls`), what is answered then (`answers`), and the four instruments as one (`routes`)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "answers",
        "flow",
        "head_interchange",
        "knockouts",
        "mass_controls",
        "routes",
        "value_edges",
    ],
)
