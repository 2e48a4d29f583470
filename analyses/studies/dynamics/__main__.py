"""The study as a script: the same as `cadmus-probe dynamics`."""

import sys

from analyses.cli import main

sys.exit(main(["dynamics", *sys.argv[1:]]))
