"""What a score must be held against: the most frequent class (`frequency`), the untrained model (`untrained`), probes
of the input itself (`input_baselines`, `input_network`), and the length of the labels' code (`codelength`)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["codelength", "frequency", "input_baselines", "input_network", "untrained"]
)
