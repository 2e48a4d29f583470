"""A whole measurement, on constant memory: what is read in which models (`measure`, `plan`), the passes over programs
that fit probes (`passes`, `networks`) and those that read with them (`counts`), correct counts by cluster (`tally`),
and the table of scores with intervals (`cells`, `scores`, `score_table`)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["cells", "counts", "measure", "networks", "passes", "plan", "score_table", "scores", "tally"]
)
