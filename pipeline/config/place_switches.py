"""Settings of where a run takes place that count only where another setting lets them.

No fingerprint holds these, whether they are on or off.
"""

from pipeline.config.data import DATASETS
from pipeline.config.switches import Switch

PLACES = (
    Switch(
        ("resources.num_actors",),
        "resources.pool=ray",
        lambda c: c.resources.pool == "ray",
        lambda c: c.resources.pool,
    ),
    Switch(
        ("resources.num_gpus",),
        "resources.pool=ray",
        lambda c: c.resources.pool == "ray" or c.resources.num_gpus in ("auto", 0),
        lambda c: c.resources.pool,
    ),
    Switch(
        ("data.root",),
        f"a data.name out of {', '.join(DATASETS)}",
        lambda c: c.data.name in DATASETS,
        lambda c: c.data.name,
    ),
)
# Of runs alone. In a sweep, a trial's own process has CPUs too, and settings of the command line
# stand beside those of a file, which may name a store.
OF_RUNS = (
    Switch(
        ("resources.num_cpus",),
        "resources.pool=ray",
        lambda c: c.resources.pool == "ray",
        lambda c: c.resources.pool,
    ),
    Switch(
        ("tracking.uri", "tracking.experiment"),
        "tracking.enabled=true",
        lambda c: c.tracking.enabled,
        lambda c: c.tracking.enabled,
    ),
)
