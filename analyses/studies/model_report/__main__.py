"""The study as a script: the same as `cadmus-probe report`."""

import sys

from analyses.cli import main

sys.exit(main(["report", *sys.argv[1:]]))
