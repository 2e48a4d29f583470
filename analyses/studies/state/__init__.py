"""The machine's state in a model's activations: every site, every variable, beside every control."""
