"""The study as a script: the same as `cadmus-probe probe`."""

import sys

from analyses.cli import main

if __name__ == "__main__":
    sys.exit(main(["probe", *sys.argv[1:]]))
