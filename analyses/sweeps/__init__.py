"""Sweeps: factors x levels x seeds of training distributions and recipes, as many small models, and one tidy table.

`sweep` (what is asked for) and `sweep_files` (as TOML), `factors` and `cells` (which recipe each cell trains by),
`runs` and `stages` (a run: corpus, model, evaluation, probing, interventions, each an artifact that is made once), what
is measured of it (`accuracies`, `planes`, `state_responses`), `folder` (what lies where, and how far it is), `engines`
(joblib on one machine; Ray's is in `cluster`), `execution` (the whole), `plan`, `tables`, `display`.
"""
