"""Studies of trained Cadmus models, each `run(...)` -> tidy tables and figures, and the `cadmus-probe` command."""
