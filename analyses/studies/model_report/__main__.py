"""The study as a script: the same as `cadmus-probe report`."""

import sys

from analyses.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
