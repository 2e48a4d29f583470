"""The study as a script: the same as `cadmus-probe alternatives`."""

import sys

from analyses.cli import main

sys.exit(main(["alternatives", *sys.argv[1:]]))
