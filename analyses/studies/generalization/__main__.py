"""The study as a script: the same as `cadmus-probe generalization`."""

import sys

from analyses.cli import main

if __name__ == "__main__":
    sys.exit(main(["generalization", *sys.argv[1:]]))
