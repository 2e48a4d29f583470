"""Cadmus: the integer machine, its programs, and the models trained on them."""
