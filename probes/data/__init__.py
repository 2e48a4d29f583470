"""What probes learn from: programs with the machine's states (`examples`), folds by skeleton (`folds`), permuted
labels (`permuted`), and a model's activations at their tokens (`activations`, `activation_cache`)."""
