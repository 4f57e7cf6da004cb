"""What a report says in words: which runs it used, how scores were computed, what to beware of."""

from collections import Counter
from collections.abc import Mapping, Sequence

from pipeline.evaluation.diagnosis import ADVICE, DIAGNOSIS, NONE
from pipeline.results.metric_names import HULL_TV, NEAREST_TV
from pipeline.tracking.mlflow_queries import TrackedRun, is_known
from spire_core.config.partition import INDEPENDENT
from spire_core.partition.split import NUM_SHOWN
from sweeps.report.differences import REFERENCE
from sweeps.report.groups import (
    EXTRACTOR,
    UNSET,
    Group,
    as_number,
    by_method,
    by_task,
    method_of,
    parameters,
    seed_of,
)

MAX_NAMED = 6
NOISE_COHORT = "privacy.rounds.noise_cohort"
NUMBERS = ("federation.num_clients", "federation.num_new_clients")
AMONG_FIRST = (
    f"; with more clients these are of the first {NUM_SHOWN} of each kind, and distances to all "
    "are at most these"
)
NO_KID = "no KID, which needs features: eval.extractor=none"


def facts_of(runs: Sequence[TrackedRun], used: Sequence[TrackedRun]) -> dict[str, str]:
    """Return what the report's numbers come from; `used` of all these runs are in its tables."""

    def value(key: str) -> str:
        values = (parameters(run).get(key, UNSET) for run in used)
        return " / ".join(dict.fromkeys(v for v in values if v != UNSET)) or "-"

    scales = value("adapt.guidance")
    own_guidance = "" if scales == "-" else f", of new clients their own, out of {scales}"
    keys = ("tau", "local_epochs", "drop_rate")
    lengths = {key: value(f"federation.{key}") for key in keys}
    length = [f"{key} {value}" for key, value in lengths.items() if value not in ("-", "0.0")]
    pixels = value("data.image_size")
    size = "" if pixels == "-" else f" at {pixels} pixels"
    facts = {
        "Runs": runs_sentence(runs, used),
        "Scores": NO_KID
        if value(EXTRACTOR).startswith("none")
        else f"KID in the feature space of {value(EXTRACTOR)}, {value('eval.num_images')} "
        f"images per client, {value('eval.kid_num_subsets')} subsets of at most "
        f"{value('eval.kid_subset_size')}",
        "Sampling": f"{value('diffusion.sampler')}, {value('diffusion.sample_steps')} steps, "
        f"guidance {value('eval.guidance')}{own_guidance}",
        "Data": f"{value('data.name')}{size}, partition {value('partition.name')}",
        "Federation": f"{value('federation.num_clients')} clients and "
        f"{value('federation.num_new_clients')} new ones, cohorts of "
        f"{value('federation.cohort_size')}, {value('federation.num_rounds')} rounds, "
        + ", ".join(length),
    }
    facts |= _coverage(used)
    revisions = dict.fromkeys(run.tags.get("git_revision", "unknown") for run in used)
    return facts | {"Code": f"revision {' / '.join(revisions)}"}


def _coverage(used: Sequence[TrackedRun]) -> dict[str, str]:
    """Return how far the pre-training clients cover the new ones, if the runs know it."""
    known = [
        (float(run.tags[HULL_TV]), float(run.tags[NEAREST_TV]))
        for run in used
        if HULL_TV in run.tags
    ]
    if not known:
        return {}
    columns = zip(*known, strict=True)
    hull, nearest = (sorted({round(value, 2) for value in values}) for values in columns)

    def span(values: list[float]) -> str:
        return " to ".join(f"{value:g}" for value in dict.fromkeys((values[0], values[-1])))

    return {
        "Coverage": f"new clients' class mixtures lie, on average, at TV {span(hull)} from the "
        f"convex hull of the pre-training clients', and at {span(nearest)} from the nearest of them"
        + (AMONG_FIRST if any(_has_more(run.params) for run in used) else "")
    }


def _has_more(params: Mapping[str, str]) -> bool:
    """Return whether a run has more clients than its coverage is of."""
    is_drawn = params.get("partition.name") == INDEPENDENT
    return is_drawn and any((as_number(params.get(k, "")) or 0) > NUM_SHOWN for k in NUMBERS)


def runs_sentence(runs: Sequence[TrackedRun], used: Sequence[TrackedRun]) -> str:
    """Return how many runs are in the tables, and how many are not and why."""
    seeds = sorted({seed_of(run) for run in used})
    methods = len({method_of(run) for run in used})
    text = f"{len(used)} finished ({_counted(methods, 'method')}; {_seeds(seeds)})"
    out = left_out(runs, used)
    return text + (f"; left out: {out}" if out else "; none left out")


def _counted(num: int, noun: str) -> str:
    return f"{num} {noun}{'s' * (num != 1)}"


def _seeds(seeds: Sequence[int]) -> str:
    return f"{_counted(len(seeds), 'seed')}: {_several(seeds)}"


def left_out(runs: Sequence[TrackedRun], used: Sequence[TrackedRun]) -> str:
    """Return how many of the runs are not among those used, by reason."""
    ids = {run.run_id for run in used}
    out = Counter(_why(run) for run in runs if run.run_id not in ids)
    return ", ".join(f"{num} {why}" for why, num in sorted(out.items()))


def _why(run: TrackedRun) -> str:
    if run.status != "FINISHED":
        return run.status.lower()
    return "run again later" if method_of(run) else "that are no experiments"


def _several(names: Sequence[object]) -> str:
    rest = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(map(str, names[:MAX_NAMED])) + rest


def notes_of(groups: Sequence[Group], chosen: Sequence[Group], metric: str) -> list[str]:
    """Return what a reader must know to read the tables right."""
    notes = ["mean ± half the 95 % interval (Student's t) over n seeds."]
    if any(len(group.runs) == 1 for group in groups):
        notes.append("Where n is 1 the value stands alone: nothing is known of its spread.")
    if len(groups) > len(chosen):
        notes.append(
            f"Each method is shown at its own best setting: the lowest mean of {metric} over "
            "seeds (in a task without it, of the next score that it has), among its settings with "
            "the most seeds. It was chosen on the seeds that are "
            "shown, which favours methods with more settings."
        )
    if len(by_task(groups)) > 1:
        notes.append(
            "Tasks differ in their data, in how they are measured or in the privacy that they "
            "promise: compare within one."
        )
    if REFERENCE not in by_method(groups):
        notes.append(f"There is no finished run of {REFERENCE}: no differences against it.")
    notes += _simulations(groups)
    notes += _uneven_seeds(groups) + _uneven_methods(chosen)
    return notes + _unknown_values(groups) + _diagnoses(groups)


def _simulations(groups: Sequence[Group]) -> list[str]:
    """Return a note of each reason for which a run's epsilon is none for its own clients."""
    runs = [run for group in groups for run in group.runs if run.tags.get("dp") == "simulated"]
    larger = [_has_larger_cohort(parameters(run)) for run in runs]
    notes = {
        "Private runs with privacy.rounds.noise_cohort are tagged dp=simulated: their noise is "
        "scaled from a larger cohort to the one that was computed, and their epsilon is what that "
        "cohort would have. It holds for nobody in them.": any(larger),
        "The noise of private runs tagged dp=simulated comes from a key that was given: their "
        "epsilon holds only for those who do not know it.": not all(larger),
    }
    return [note for note, is_needed in notes.items() if is_needed]


def _has_larger_cohort(params: Mapping[str, str]) -> bool:
    return params.get(NOISE_COHORT, UNSET) not in (UNSET, params.get("federation.cohort_size"))


def _diagnoses(groups: Sequence[Group]) -> list[str]:
    """Return a note of each known failure that runs show, with what to try."""
    shown: dict[str, list[str]] = {}
    for run in (run for group in groups for run in group.runs):
        for name in run.tags.get(DIAGNOSIS, NONE).split(","):
            shown.setdefault(name, []).append(f"{run.name} ({run.run_id[:8]})")
    return [
        f"{name}, seen in {_several(runs)}: try {ADVICE[name]}."
        for name, runs in shown.items()
        if name in ADVICE
    ]


def _uneven_seeds(groups: Sequence[Group]) -> list[str]:
    """Return a note of the settings that lack seeds which their method has elsewhere."""
    notes = []
    for method, own in by_method(groups).items():
        seeds = {seed_of(run) for group in own for run in group.runs}
        short = [group for group in own if len(group.runs) < len(seeds)]
        if short:
            notes.append(f"{method}: {len(short)} of {len(own)} settings lack some of its seeds.")
    return notes


def _uneven_methods(chosen: Sequence[Group]) -> list[str]:
    """Return a note if methods of a task do not have the same seeds."""
    for here in by_task(chosen).values():
        if len({frozenset(seed_of(run) for run in group.runs) for group in here}) > 1:
            return [
                "Methods of a task have run on different seeds: their order and bold type compare "
                "means over different seeds. Differences are on the seeds that both have."
            ]
    return []


def _unknown_values(groups: Sequence[Group]) -> list[str]:
    """Return a note of the values that are no numbers, which no mean contains."""
    odd = [
        f"{run.name} ({run.run_id[:8]}): {key}"
        for group in groups
        for run in group.runs
        for key, value in run.finals.items()
        if key.startswith(("final/", "best/")) and not is_known(value)
    ]
    return [f"Not a number, and in no mean: {_several(odd)}."] if odd else []
