"""From a recipe to a trained model: `recipe`, `loop`, `batches`, `muon`, `cost` (share of the machine's peak),
`distributed`, `checkpoint`, and `completion` (is what the model writes true?)."""
