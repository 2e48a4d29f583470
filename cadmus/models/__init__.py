"""The transformer: `config`, `layers`, `rotary` and `model` (HookedTransformer's names and shapes), `sites`, `hooks`,
`run_cache` (what a run computed), `weights` and `text` (what is called as there), `key_value_cache`, `partial`
(reading again from where an edit begins), `generation`, `constraints`,
the training form of its layers (`packed`, `fused`, `fused_loops`), `lens` (conversion to and from TransformerLens) and
`backends` (what differs between them). uint8 [batch, position] enters, logits and activations leave."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "backends",
        "compilation",
        "config",
        "constraints",
        "fused",
        "fused_loops",
        "generation",
        "hooks",
        "key_value_cache",
        "layers",
        "lens",
        "model",
        "packed",
        "partial",
        "rotary",
        "run_cache",
        "sites",
        "text",
        "weights",
    ],
)
