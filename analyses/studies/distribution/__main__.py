"""The study as a script: the same as `cadmus-probe data describe`."""

import sys

from analyses.cli import main

sys.exit(main(["data", "describe", *sys.argv[1:]]))
