"""What each component or edge does for an answer, estimated from gradients: which answers are told apart (`contrasts`),
`gradients`, attribution patching of `nodes` and `edges`, `circuits` and their faithfulness, `lenses`, and how near each
estimate comes to patching itself (`relevance`; of `scores` by both; `tables` for an experiment's pairs)."""

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
        "scores",
        "tables",
    ],
    submod_attrs={
        "contrasts": ["Contrast"],
        "edges": ["attribute_edges"],
        "nodes": ["attribute"],
    },
)
