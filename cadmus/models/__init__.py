"""The transformer: `model` (HookedTransformer's names and shapes), `hooks`, `key_value_cache`, `generation`,
`constraints`, the training form of its layers (`packed`, `fused`), TransformerLens (`lens`), and `backends` (what
differs between these). uint8 [batch, position] enters, logits and activations leave."""
