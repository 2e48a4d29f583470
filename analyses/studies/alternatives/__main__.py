"""The study as a script: the same as `cadmus-probe alternatives`."""

import sys

from analyses.cli import main

if __name__ == "__main__":
    sys.exit(main(["alternatives", *sys.argv[1:]]))
