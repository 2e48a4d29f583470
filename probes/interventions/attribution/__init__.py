"""What each component or edge does for an answer, estimated from gradients: attribution patching, circuits and their
faithfulness, lenses, and how near each estimate comes to patching itself."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "circuits",
        "contrasts",
        "edges",
        "gradients",
        "lenses",
        "nodes",
        "relevance",
        "tables",
    ],
    submod_attrs={
        "contrasts": ["Contrast"],
        "edges": ["attribute_edges"],
        "nodes": ["attribute"],
    },
)
