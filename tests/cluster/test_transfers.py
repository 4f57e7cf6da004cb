"""A result that takes longer to come from another node than one slice of a wait arrives.

Two nodes on loopback, in a process of its own: this file is also that script.
"""

import faulthandler
import json
import os
import subprocess
import sys
import time
from pathlib import Path

NODE = {"num_cpus": 1, "object_store_memory": 500_000_000}
NUM_BYTES, SLICE_S = 200_000_000, 0.01
LIMIT_S, HANGS_S, ENDS_S = 20.0, 150, 180


def main() -> None:
    """Print how many slices a large result of another node took to arrive, and its size."""
    faulthandler.dump_traceback_later(HANGS_S, exit=True)
    import ray
    from ray.cluster_utils import Cluster

    from pipeline.cluster import results

    class Far:
        def ready(self) -> str:
            return ray.get_runtime_context().get_node_id()

        def make(self) -> bytes:
            return bytes(NUM_BYTES)

    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    cluster.add_node(**NODE, resources={"far": 1})
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        far = ray.remote(num_cpus=0, resources={"far": 1})(Far).remote()
        is_away = ray.get(far.ready.remote()) != ray.get_runtime_context().get_node_id()
        ref = far.make.remote()
        ray.wait([ref], fetch_local=False)  # it is made; nothing has come here yet
        results.TICK_S = SLICE_S
        ticks, began = list[int](), time.monotonic()
        results.check_alive = lambda: ticks.append(1)
        value = results.get(ref, LIMIT_S)
        seconds = time.monotonic() - began
    finally:
        ray.shutdown()
        cluster.shutdown()
    told = {"is_away": is_away, "num_bytes": len(value), "slices": len(ticks), "seconds": seconds}
    print(json.dumps(told), flush=True)


def test_a_result_that_takes_many_slices_to_come_arrives(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    env |= {"PYTHONPATH": str(Path(__file__).parents[2]), "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, __file__]
    done = subprocess.run(
        command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=ENDS_S
    )
    assert done.returncode == 0, done.stderr[-9000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["is_away"]
    assert told["num_bytes"] == NUM_BYTES
    assert told["slices"] > 3
    assert told["seconds"] < LIMIT_S


if __name__ == "__main__":
    main()
