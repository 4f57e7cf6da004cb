"""Faults put into the product on purpose, and whether the tests that should notice them do.

    python benchmarks/mutations.py --out mutations.json
    python benchmarks/mutations.py --only NAME ...

Each mutation replaces one text in one file of a temporary copy of the checkout and runs the named
tests there. It is caught if they fail. Before that they have to succeed without it. A text that is
not in its file exactly once is an error, so that a mutation cannot become stale. The exit code is 1
if a mutation survives. With `--only`, results of the others stay in the file if they are the same.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CORE, RUN, SWEEP = "tests/unit/core", "tests/unit/run", "tests/unit/sweep"
BY_HAND = f"{CORE}/federated/test_server_by_hand.py"
FEDERATION = f"{CORE}/federated/test_federation.py"
PRIVATE_FIT = "spire_core/adaptation/adapt_privately.py"
PRIVATE_NOISE = f"{CORE}/adaptation/test_private_noise.py"
SNAPSHOTS = f"{RUN}/checkpoint/test_snapshots.py"
OUTBOX = f"{RUN}/tracking/test_outbox.py"
SUCCESS, FAILURE = 0, 1  # exit codes of pytest; any other is a mistake of the command


@dataclass(frozen=True)
class Mutation:
    """A fault: the text `old` of a file becomes `new`; `tests` should notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _mutation(name: str, file: str, old: str, new: str, *tests: str) -> Mutation:
    return Mutation(name, file, old, new, tests)


MUTATIONS = (
    # the server
    _mutation(
        "the mean is subtracted",
        "spire_core/federated/exact_sum.py",
        "self.levels[0, at] += whole.astype(np.int64)",
        "self.levels[0, at] -= whole.astype(np.int64)",
        BY_HAND,
    ),
    _mutation(
        "the mean ignores the numbers of examples",
        "spire_core/federated/exact_sum.py",
        "scale = math.ldexp(weight, -self.unit)",
        "scale = math.ldexp(1, -self.unit)",
        BY_HAND,
    ),
    _mutation(
        "FedAdam steps away from the clients",
        "spire_core/federated/server.py",
        "(state.weights + step)",
        "(state.weights - step)",
        BY_HAND,
    ),
    _mutation(
        "the moving average has the complement's decay",
        "spire_core/federated/server.py",
        "decay = config.ema_decay(state.round_idx)",
        "decay = 1 - config.ema_decay(state.round_idx)",
        BY_HAND,
    ),
    _mutation(
        "clients draw without the moving average",
        "pipeline/federation/driver.py",
        "return self.state.ema if self.settings.config.server.ema > 0 else self.state.weights",
        "return self.state.weights",
        f"{RUN}/federation/test_driver.py",
    ),
    _mutation(
        "a loss of NaN is let through",
        "spire_core/federated/sums.py",
        "if not math.isfinite(update.loss):",
        "if False:",
        f"{CORE}/federated/test_sums.py",
    ),
    _mutation(
        "NaN in an update is let through",
        "spire_core/federated/exact_sum.py",
        "if not np.abs(array).max(initial=0.0) < math.ldexp(1.0, self.top):",
        "if False:",
        f"{CORE}/federated/test_sums.py",
    ),
    _mutation(
        "a client is in the mean twice",
        "pipeline/federation/pool.py",
        "if len(found) == len(wanted) and set(found) == wanted:",
        "if set(found) == wanted:",
        f"{RUN}/federation/test_driver.py",
    ),
    # clients
    _mutation(
        "private layers are sent",
        "spire_core/federated/client.py",
        "slice(0, layout.size if plan.shares_local else layout.num_without_local)",
        "slice(0, layout.size)",
        f"{FEDERATION}::test_local_layers_stay_with_their_clients",
    ),
    _mutation(
        "embedding dropout is ignored",
        "spire_core/training/fit.py",
        "if client_emb is not None and self.emb_dropout > 0:",
        "if False:",
        f"{CORE}/training/test_fit.py",
    ),
    # scores
    _mutation(
        "KID has the bias of its diagonal",
        "spire_core/evaluation/kid.py",
        "(size * (size - 1))",
        "(size * size)",
        f"{CORE}/evaluation/test_kid.py",
    ),
    _mutation(
        "clients with too few images to be scored are let through",
        "pipeline/federation/setup.py",
        "    check_floors(setup)\n",
        "",
        f"{RUN}/federation/test_setup.py",
    ),
    # private noise
    _mutation(
        "a private fit has a tenth of its noise",
        PRIVATE_FIT,
        "self._total.release(self.guarantee.noise_multiplier, normals)",
        "self._total.release(self.guarantee.noise_multiplier / 10, normals)",
        PRIVATE_NOISE,
    ),
    _mutation(
        "every private step has the same noise",
        PRIVATE_FIT,
        'self._released("adapt_step", step)',
        'self._released("adapt_step", 0)',
        PRIVATE_NOISE,
    ),
    _mutation(
        "every client's private fit has the same noise",
        PRIVATE_FIT,
        "place, noise = (self.client.client_id, *counters)",
        "place, noise = (0, *counters)",
        PRIVATE_NOISE,
    ),
    _mutation(
        "a worker adds zeros in place of a private round's noise",
        "pipeline/clients/worker.py",
        "total.add(NOISE, 0, form.noise(self._noise(), plan.round_idx))",
        "total.add(NOISE, 0, 0 * form.noise(self._noise(), plan.round_idx))",
        f"{RUN}/clients/test_worker.py",
    ),
    # files and resuming
    _mutation(
        "tensors are not compared with their hash",
        "pipeline/files/tensors.py",
        "texts.pop(HASH, None) != _content_hash(tensors, texts)",
        "texts.pop(HASH, None) is None",
        f"{RUN}/files/test_tensors.py",
    ),
    _mutation(
        "the server's state is not compared with its hash",
        "pipeline/runs/server_state.py",
        "if hashlib.sha256(content).hexdigest() != sha256:",
        "if False:",
        f"{RUN}/runs/test_server_state.py",
        SNAPSHOTS,
    ),
    _mutation(
        "files are not flushed",
        "pipeline/files/atomic.py",
        "            if is_lasting:\n                os.fsync(file.fileno())\n",
        "",
        f"{RUN}/files/test_json_files.py",
    ),
    _mutation(
        "the checkpoint's state is not flushed",
        "pipeline/checkpoint/snapshots.py",
        "        sync(part / STATE)\n",
        "",
        SNAPSHOTS,
    ),
    _mutation(
        "clients' states and evaluations are not flushed",
        "pipeline/checkpoint/snapshots.py",
        "        _sync_beside(run_dir, manifest)\n",
        "",
        SNAPSHOTS,
    ),
    _mutation(
        "a checkpoint is dropped while it is uploaded",
        "pipeline/checkpoint/snapshots.py",
        "if int(old.name) in pinned_rounds:",
        "if False:",
        SNAPSHOTS,
    ),
    _mutation(
        "a resumed run repeats its last round",
        "pipeline/experiment/pretraining.py",
        "range(first, num_rounds), listeners",
        "range(max(0, first - 1), num_rounds), listeners",
        f"{RUN}/experiment/test_resume.py::test_two_crashes_and_a_damaged_checkpoint_change_nothing",
    ),
    _mutation(
        "clients' states of later rounds stay at a resume",
        "pipeline/clients/store.py",
        "int(path.stem) > num_rounds_done",
        "int(path.stem) > num_rounds_done + 10**6",
        SNAPSHOTS,
    ),
    # tracking
    _mutation(
        "entries count as delivered before they are",
        "pipeline/tracking/relay.py",
        "        entries = [entry for entry, _ in batch if entry is not None]\n",
        "        entries = [entry for entry, _ in batch if entry is not None]\n"
        "        write_cursor(self.run_dir, batch[-1][1], self.sink.address)\n",
        OUTBOX,
    ),
    # strangers and secrets
    _mutation(
        "files outside a run's folder are sent",
        "pipeline/tracking/mlflow_sink.py",
        "if not path.is_relative_to(folder):",
        "if False:",
        f"{RUN}/tracking/test_delivery.py::test_an_outbox_sends_nothing_from_outside_its_run",
    ),
    _mutation(
        "another store goes on where the last one stopped",
        "pipeline/tracking/relay.py",
        "offset if store == self.sink.address else 0",
        "offset",
        f"{OUTBOX}::test_another_store_begins_at_the_first_entry",
    ),
    _mutation(
        "a name is taken for HTML",
        "sweeps/report/page.py",
        "autoescape=True",
        "autoescape=False",
        f"{SWEEP}/report/test_make.py",
    ),
    _mutation(
        "nothing is masked",
        "pipeline/files/masking.py",
        '    return _SECRET.sub(r"\\1\\2***", text)\n',
        "    return text\n",
        f"{RUN}/files/test_masking.py",
    ),
    _mutation(
        "control characters reach the terminal",
        "pipeline/cli/command.py",
        'c if c.isprintable() or c == "\\n" else ascii(c)[1:-1]',
        "c",
        "tests/unit/sweep/report/test_make.py::test_a_terminal_obeys_no_name",
    ),
    # walls
    _mutation(
        "the server's side imports the clients'",
        "pipeline/federation/driver.py",
        "from pipeline.federation.pool import ",
        "import pipeline.clients.store\nfrom pipeline.federation.pool import ",
        "tests/unit/test_layering.py",
    ),
    _mutation(
        "a new client takes the guidance that is farthest",
        "pipeline/clients/adaptation.py",
        "np.argmin(distances, axis=0)",
        "np.argmax(distances, axis=0)",
        f"{RUN}/experiment/test_guidance.py",
    ),
    _mutation(
        "a new client chooses its guidance by the images that it fits",
        "spire_core/adaptation/set_aside.py",
        "at_train, at_val = split_validation(",
        "at_val, at_train = split_validation(",
        f"{RUN}/experiment/test_guidance.py",
    ),
)


def mutated(mutation: Mutation, text: str) -> str:
    """Return a file's text with the fault; ValueError unless the old text is in it once."""
    if (count := text.count(mutation.old)) != 1:
        raise ValueError(
            f"expected the text of {mutation.name!r} once in {mutation.file}, got it {count} "
            "times: bring the mutation up to date"
        )
    return text.replace(mutation.old, mutation.new)


def copy_checkout(target: Path) -> None:
    """Copy the files that git knows or would take."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def do_tests_fail(checkout: Path, tests: Sequence[str]) -> bool:
    """Return whether one of some tests fails; RuntimeError if they cannot be run."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(
        [*command, *tests], cwd=checkout, env=environment, capture_output=True, text=True
    )
    if ended.returncode not in (SUCCESS, FAILURE):
        raise RuntimeError(
            f"pytest {' '.join(tests)}: {ended.stdout[-2000:]}{ended.stderr[-2000:]}"
        )
    return ended.returncode != SUCCESS


def check_tests(checkout: Path, tests: Sequence[str]) -> None:
    """Raise RuntimeError if tests fail without any mutation."""
    if do_tests_fail(checkout, tests):
        raise RuntimeError(f"expected {' and '.join(tests)} to succeed, got failures: mend them")


def is_caught(mutation: Mutation, checkout: Path) -> bool:
    """Return whether the tests notice a fault."""
    path = checkout / mutation.file
    original = path.read_text()
    path.write_text(mutated(mutation, original))
    try:
        return do_tests_fail(checkout, mutation.tests)
    finally:
        path.write_text(original)


def measure(chosen: Sequence[Mutation]) -> list[dict[str, object]]:
    """Return each mutation with whether it was caught, and print it."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        copy_checkout(Path(folder))
        succeeded = set[tuple[str, ...]]()
        for mutation in chosen:
            began = time.monotonic()
            if mutation.tests not in succeeded:
                check_tests(Path(folder), mutation.tests)
                succeeded.add(mutation.tests)
            caught = is_caught(mutation, Path(folder))
            took_s = round(time.monotonic() - began, 1)
            rows.append({**asdict(mutation), "caught": caught})
            print(
                f"{'caught' if caught else 'SURVIVED':9} {took_s:7.1f} s  {mutation.name}",
                flush=True,
            )
    return rows


def write(out: Path, rows: Sequence[dict[str, object]]) -> None:
    """Write all mutations. One that was not run now is as the file has it, null if it is new."""
    earlier = json.loads(out.read_text())["mutations"] if out.exists() else []
    caught = {_definition(row): row["caught"] for row in (*earlier, *rows)}
    told = [asdict(mutation) for mutation in MUTATIONS]
    told = [row | {"caught": caught.get(_definition(row))} for row in told]
    answers = Counter(row["caught"] for row in told)
    summary = {"num_mutations": len(told), "num_caught": answers[True]}
    summary |= {"num_survived": answers[False], "num_not_run": answers[None]}
    out.write_text(json.dumps({**summary, "mutations": told}, indent=1) + "\n")


def _definition(row: Mapping[str, Any]) -> str:
    """Return a mutation's values as text, without the result."""
    return json.dumps({key: value for key, value in row.items() if key != "caught"})


def main() -> int:
    """Run the chosen mutations; return the exit code."""
    parser = argparse.ArgumentParser(description="Put faults into a copy and test it.")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="mutations by name")
    parser.add_argument("--out", type=Path, help="a JSON file of the results")
    args = parser.parse_args()
    chosen = [m for m in MUTATIONS if args.only is None or m.name in args.only]
    for mutation in MUTATIONS:  # all of them, before any test takes its time
        mutated(mutation, (ROOT / mutation.file).read_text())
    rows = measure(chosen)
    survivors = [row["name"] for row in rows if not row["caught"]]
    print(f"{len(rows) - len(survivors)} of {len(rows)} caught")
    if args.out is not None:
        write(args.out, rows)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
