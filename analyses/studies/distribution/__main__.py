"""The study as a script: the same as `cadmus-probe data describe`."""

import sys

from analyses.cli import main

if __name__ == "__main__":
    sys.exit(main(["data", "describe", *sys.argv[1:]]))
