"""The verb `spire doctor`: the state of this machine, as `examine` finds it."""

from typing import Any

from click import option

from pipeline.cli.command import Answer, verb
from pipeline.cli.tables import number, pairs

TOLD = ("name", "ok", "problem")  # of a self-test, apart from its scores


@verb()
@option("--metrics", is_flag=True, help="Check KID on the data sets here; exit code 1 if it fails.")
def doctor(metrics: bool) -> Answer:
    """Say what would run where, what is missing, and how to get it."""
    from pipeline.cli.examine import examine

    state = examine(metrics)
    return Answer(_text(state), state, 0 if state["ok"] else 1)


def _text(state: dict[str, Any]) -> str:
    gpus = ", ".join(gpu["name"] for gpu in state["gpus"]) or "none"
    free, memory = state["memory_free_bytes"] / 2**30, state["memory_bytes"] / 2**30
    plugins = [f"{one['kind']} {name}" for one in state["plugins"] for name in one["names"]]
    facts = {
        "python": state["python"],
        "packages": ", ".join(f"{k} {v or 'missing'}" for k, v in state["packages"].items()),
        "machine": f"{state['num_cpus']} CPUs, {free:.1f} of {memory:.1f} GiB free, GPUs: {gpus}",
        "Ray": state["ray_address"] or "is started on this machine",
        "plug-ins": ", ".join(plugins) or "none",
        "tracking": state["tracking"]["uri"],
        "look at it": state["tracking"]["ui"],
        "pages": state["pages"],
    }
    for kind in ("data", "extractors"):
        states = [(one["name"], "ok" if one["ok"] else "missing") for one in state[kind]]
        facts[kind] = ", ".join(map(" ".join, states))
    for test in state["selftests"]:
        scores = [f"{key} {number(value)}" for key, value in test.items() if key not in TOLD]
        told = "ok" if test["ok"] else f"FAILED, {test['problem']}"
        facts[f"self-test {test['name']}"] = ", ".join([told, *scores])
    missing = "".join(f"\n- {sentence}" for sentence in state["missing"])
    return f"{pairs(facts)}\n\n" + (f"missing:{missing}" if missing else "nothing is missing")
