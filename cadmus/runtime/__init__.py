"""What every stage runs on: `artifacts` (folders that are whole or absent), `seeds`, `devices` (what this computer is
fast at), `threads`, `workers`, `folder_lock`, `progress`, `checks` (of configs), `tables` (of TOML, as
dataclasses) and `diagnosis` (what this computer is to the package)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "artifacts",
        "checks",
        "devices",
        "diagnosis",
        "folder_lock",
        "progress",
        "seeds",
        "tables",
        "threads",
        "workers",
    ],
)
