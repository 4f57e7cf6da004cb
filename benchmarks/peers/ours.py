"""The work on SPIRE, which starts as `spire run` does: Ray first, and beside it what needs torch.

python -m benchmarks.peers.ours tiny 5 --pool=ray --engine=grouped
"""

import contextlib
import sys


def main() -> None:
    with contextlib.ExitStack() as stack:
        if "--pool=ray" in sys.argv:
            from pipeline.cluster.session import starting_cluster

            stack.enter_context(starting_cluster())
        from benchmarks.peers.ours_rounds import run_rounds

        run_rounds()


if __name__ == "__main__":
    main()
