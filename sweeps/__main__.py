"""`python -m sweeps FILE ...` is the command `spire sweep FILE ...`: what a submitted job runs.

`python -m sweeps report ...` is `spire report ...`, and so is `plan`.
"""

import os
import sys

if __name__ == "__main__":
    if sys.path[0] == os.getcwd() != os.path.dirname(os.path.dirname(os.path.realpath(__file__))):
        del sys.path[0]  # the user's folder may hold files with the names of these packages
    from sweeps.cli import main

    words = sys.argv[1:]
    sys.exit(main(words if words[:1] in (["sweep"], ["plan"], ["report"]) else ["sweep", *words]))
