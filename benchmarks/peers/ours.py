"""The work on SPIRE.

python -m benchmarks.peers.ours tiny 5 --pool=ray --engine=grouped
"""

import contextlib
import sys


def main() -> None:
    with contextlib.ExitStack() as stack:
        if "--pool=ray" in sys.argv:
            from pipeline.cluster.session import cluster

            stack.enter_context(cluster())
        from benchmarks.peers.ours_rounds import run_rounds

        run_rounds()


if __name__ == "__main__":
    main()
