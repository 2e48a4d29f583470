"""Programs in numbers: drawn in `shards`, told apart (`membership`), written (`build`), read (`corpus`), drawn beside
them (`held_out`), and with their truth destroyed (`ordinary`). Mixture, size and seed enter; uint8 [n, width]
leaves."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["build", "corpus", "held_out", "membership", "ordinary", "shards"]
)
