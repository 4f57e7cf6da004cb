"""`python -m sweeps FILE ...` is the command `spire sweep FILE ...`: what a submitted job runs.

`python -m sweeps report ...` is `spire report ...`.
"""

import sys

from sweeps.cli import main

if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(main(words if words[:1] in (["sweep"], ["report"]) else ["sweep", *words]))
