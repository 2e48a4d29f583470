"""The study as a script: the same as `cadmus-probe dynamics`."""

import sys

from analyses.cli import main

if __name__ == "__main__":
    sys.exit(main(["dynamics", *sys.argv[1:]]))
