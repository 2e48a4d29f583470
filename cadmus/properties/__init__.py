"""What programs are like, with intervals: `structure` (of the text), `behaviour` (of the run), `comparisons` (what is
compared, exactly), `divergence` (of two sources), `splits` (hold-outs at a wanted divergence)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["behaviour", "comparisons", "divergence", "splits", "structure"]
)
