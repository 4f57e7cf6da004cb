"""`python -m sweeps FILE ...` is the command `spire sweep FILE ...`: what a submitted job runs."""

import sys

from sweeps.cli import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
