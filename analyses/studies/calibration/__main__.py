"""The study as a script: the same as `cadmus-probe calibration`."""

import sys

from analyses.cli import main

if __name__ == "__main__":
    sys.exit(main(["calibration", *sys.argv[1:]]))
