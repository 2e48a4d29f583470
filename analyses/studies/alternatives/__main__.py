"""The study as a script: the same as `cadmus-probe semantics`."""

import sys

from analyses.cli import main

sys.exit(main(["semantics", *sys.argv[1:]]))
