"""`python -m pipeline ...` is the command `spire ...`."""

import os
import sys

if __name__ == "__main__":
    if sys.path[0] == os.getcwd() != os.path.dirname(os.path.dirname(os.path.realpath(__file__))):
        del sys.path[0]  # the user's folder may hold files with the names of these packages
    from pipeline.cli.main import main

    sys.exit(main())
