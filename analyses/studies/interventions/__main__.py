"""The study as a script: the same as `cadmus-probe intervene`."""

import sys

from analyses.cli import main

if __name__ == "__main__":
    sys.exit(main(["intervene", *sys.argv[1:]]))
