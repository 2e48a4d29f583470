"""The study as a script: the same as `cadmus-probe probe`."""

import sys

from analyses.cli import main

sys.exit(main(["probe", *sys.argv[1:]]))
