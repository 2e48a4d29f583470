"""The study as a script: the same as `cadmus-probe paper`."""

import sys

from analyses.cli import main

if __name__ == "__main__":
    sys.exit(main(["paper", *sys.argv[1:]]))
