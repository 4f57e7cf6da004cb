"""The command `spire`: its verbs, each of which parses, calls and answers."""

import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import click
from click import FloatRange, IntRange, argument, option
from click import Path as File

import spire
from pipeline.cli.command import Answer, png_path, run_command, say, verb
from pipeline.cli.tables import table
from pipeline.cli.words import (
    DEFAULT_PRESET,
    Words,
    allowed,
    offered,
    preset_and_settings,
    presets_and_keys,
    runs,
    split_one,
)
from pipeline.config.load import load_config, overridden, preset_names, write_value, write_yaml
from pipeline.config.meaning import load_typed, say_without_effect, without_effect
from pipeline.config.tracking import SERVERS, tracking_uri, ui_command
from pipeline.files.paths import lasting
from pipeline.runs.layout import SAMPLES
from pipeline.runs.record import (
    find_run,
    load_result,
    load_start,
    located,
    read_record,
    run_folders,
    run_lock,
)
from pipeline.theory.config import NAMES, load_theory
from spire_core.config.checks import require
from spire_core.config.eval import MAX_DRAWN, MAX_GUIDANCE
from spire_core.errors import RunError

NUM_IMAGES, NUM_PER_PROMPT, MAX_COLUMNS = 64, 8, 32  # of `spire sample`
PLACES = ("tracking.", "data.root=", "eval.extractor_weights=")  # of `spire audit`
WHAT_IF = ("client.opt_state=", "client.private_moments=", "client.compression=")
WHAT_IF += ("client.emb_dropout=", "federation.cohort_size=", "federation.tau=")
WHAT_IF += ("federation.secure_aggregation=",)

PRESETS = f"Presets: {', '.join(preset_names())}; {DEFAULT_PRESET} unless one is named."
with_preset = argument(
    "words", nargs=-1, metavar="[PRESET] [KEY=VALUE]...", shell_complete=offered(presets_and_keys)
)
of_run = argument("run", shell_complete=offered(runs))
with_settings = argument("words", nargs=-1, metavar="[KEY=VALUE]...")
anew = option(
    "--anew", is_flag=True, help="Deliver the whole run to the present store, as a new one."
)
quiet = option("--quiet", is_flag=True, help="Show no progress.")
scale = FloatRange(0, MAX_GUIDANCE)
of_client = option("--client", help="Whose, by name or id (the population's unless given).")


# --- one experiment -------------------------------------------------------------------------------


@verb(epilog=PRESETS)
@with_preset
@option("--dry-run", is_flag=True, help="Print config, partition and resources, and stop.")
@quiet
def run(words: Words, dry_run: bool, quiet: bool) -> Answer:
    """Run one experiment end to end, with settings such as client.lr=0.001."""
    preset, settings = preset_and_settings(words)
    if not dry_run:
        return _finished(spire.run(preset, settings, is_quiet=quiet))
    from pipeline.cli.texts import setting_json, setting_text
    from pipeline.cluster.actor_plan import (
        ActorPlan,
        most_useful_actors,
        plan_on_nodes,
        present_nodes,
    )
    from pipeline.data.fetch import check_before, fetch_for
    from pipeline.experiment.estimate import run_seconds
    from pipeline.federation.setup import prepare
    from pipeline.tracking.tracker import check_store

    config = located(load_typed(preset, settings))
    check_before(config, say)
    if tracking_uri(config.tracking).startswith(SERVERS):
        check_store(config.tracking)
    fetch_for(config.data, say)
    plan = None
    if config.resources.pool == "ray":
        plan = plan_on_nodes(config.resources, present_nodes(), most_useful_actors(config))
    estimate_s = run_seconds(config, plan or ActorPlan(1, 1.0, 0.0))
    description = setting_json(prepare(config), preset, plan, estimate_s)
    return Answer(setting_text(description), description)


@verb()
@of_run
@with_settings
@anew
@quiet
def resume(run: str, words: Words, anew: bool, quiet: bool) -> Answer:
    """Go on with an interrupted run; with --json, print the result of a finished one again.

    RUN is a run's id, name or folder, or last; or its copy, as <tracking.storage>/<run id>.
    Settings are those of tracking.*, resources.*, data.root, eval.extractor_weights and
    federation.client_timeout_s.
    """
    try:
        return _finished(spire.resume(run, words, is_anew=anew, is_quiet=quiet))
    except spire.FinishedError as ended:
        name = ended.result["name"]
        return Answer(f"run {name} has finished: spire sample {name}", ended.result)


@verb(name="try")
@argument("folder")
@option("--owners/--classes", default=None, help="Its subfolders are people, or kinds of images.")
@option("--new", metavar="NAME", help="Who arrives later (the last person unless given).")
@option("--minutes", type=FloatRange(0.5, 600), default=3.0, help="How long to train (3).")
@quiet
def try_out(
    folder: str, owners: bool | None, new: str | None, minutes: float, quiet: bool
) -> Answer:
    """Train on a folder of images for a few minutes, and write a page of what is drawn.

    FOLDER has a subfolder of images for each person, or for each kind of images.
    """
    from pipeline.experiment.tryout import look

    if sys.stdin.isatty() and (seen := look(folder, owners, new)).are_owners is None:
        say(seen.text)
        owners = click.confirm("Are these people, each with images of their own?", err=True)
    kept = {"owners": owners, "new": new, "minutes": minutes, "is_quiet": quiet}
    return _finished(spire.try_out(folder, **kept))


def _finished(result: Any) -> Answer:
    from pipeline.cli.texts import result_table
    from pipeline.runs.layout import PAGE

    text, values = result_table(result), load_result(result.run_dir) or {}
    page = result.run_dir / PAGE
    if page.is_file():
        values["artifacts"]["page"] = str(page)
        text += f"\n\neach one's images beside what is drawn: {page}"
    return Answer(text, values)


@verb()
@argument("words", nargs=-1, metavar="[RUN] [KEY=VALUE]...", shell_complete=offered(runs))
@anew
def sync(words: Words, anew: bool) -> Answer:
    """Deliver what a run's tracking store has missed, or what those of all runs have missed.

    RUN is a run's id, name or folder, or last. Settings are those of tracking.*.
    """
    from pipeline.cli.sync import sync_runs

    name, settings = split_one(words, "run, or none for all,")
    config = load_config(None, allowed(settings, ("tracking.",))).tracking
    folders = [find_run(name, config, ("run", "sweep", "theory"))] if name else run_folders(config)
    synced = sync_runs(config, folders, name is not None, anew)
    waiting = sum(one["num_waiting"] for one in synced)
    counts = ("num_delivered", "num_waiting", "num_refused")
    shown = [one for one in synced if any(one[name] for name in counts)]
    text = f"{table(shown)}\n{waiting} entries wait" if shown else "nothing waits"
    return Answer(text, {"num_waiting": waiting, "runs": synced}, int(waiting > 0))


@verb(name="open")
@argument("words", nargs=-1, metavar="[RUN] [KEY=VALUE]...", shell_complete=offered(runs))
def open_ui(words: Words) -> Answer:
    """Show a sweep or a run in MLflow's UI, on a free port, until Ctrl-C.

    RUN is a name, an id or a folder; the newest sweep, or else run, unless given. Of a sweep, the
    trials are charted, the best first. Settings are those of tracking.*.
    """
    from pipeline.cli.ui import address_of
    from pipeline.cli.ui import show as show_ui

    name, settings = split_one(words, "run, or none for the newest sweep,")
    config = load_config(None, allowed(settings, ("tracking.",))).tracking
    kinds = {read_record(folder)["kind"] for folder in run_folders(config)}
    newest = ("sweep",) if "sweep" in kinds else ("run",)
    folder = find_run(name or "last", config, ("sweep", "run") if name else newest)
    address = show_ui(config, address_of(folder, config), say)
    return Answer(address, {"address": address})


# --- a finished run -------------------------------------------------------------------------------


@verb()
@of_run
@with_settings
@option("--data", help="A data set (its test split), or a folder of images.")
@option("--more-data", metavar="DATA", help="The same, to go on with the fit of --client.")
@option("--classes", default="", help="Only these classes, by name, such as 3,7.")
@option("--client", help="The client's name (the folder's unless given), or an id that is free.")
@option("--num-images", type=IntRange(1), help="How many images it learns from.")
@option("--epsilon", type=float, help="Privacy budget of its images, such as 4 (docs/privacy.md).")
def adapt(
    run: str,
    words: Words,
    data: str | None,
    more_data: str | None,
    classes: str,
    client: str | None,
    num_images: int | None,
    epsilon: float | None,
) -> Answer:
    """Fit a client that arrives after a run has ended, and save its own part with the run.

    RUN is a run's id, name or folder, or last. Settings are those of adapt.*, privacy.adapt.*,
    privacy.noise_key, tracking.* and data.root.
    """
    from pipeline.cli.texts import arrival_json

    images, got = data or more_data or "", "both" if data and more_data else "none"
    require(bool(data) != bool(more_data), "one of --data and --more-data", got, "name images")
    settings = [*words]
    settings += [] if num_images is None else [f"adapt.num_images={num_images}"]
    settings += [] if epsilon is None else [f"privacy.adapt.epsilon={epsilon}"]
    saved = spire.load(run, [word for word in words if word.startswith("tracking.")])
    wanted = [name.strip() for name in classes.split(",") if name.strip()]
    kept = {"classes": wanted, "client": client, "goes_on": more_data is not None}
    arrival = spire.adapt(saved, images, settings, **kept)
    return Answer("", arrival_json(arrival))


@verb()
@of_run
@with_settings
@of_client
@option("--num", type=IntRange(1, MAX_DRAWN), help="Images (64), or images of each prompt (8).")
@option("--prompt", "prompts", multiple=True, help="What a row of images shows.")
@option("--seed", type=int, default=0, help="Of the noise (0).")
@option("--guidance", type=scale, help="How far from the population (1: not at all).")
@option("--text-guidance", type=scale, help="How strongly a prompt counts (1: as it is).")
@option("--out", type=File(dir_okay=False), help="The PNG; a .npz is written beside it.")
def sample(
    run: str,
    words: Words,
    client: str | None,
    num: int | None,
    prompts: tuple[str, ...],
    seed: int,
    guidance: float | None,
    text_guidance: float | None,
    out: str | None,
) -> Answer:
    """Draw images as a client of a finished run, or as its population.

    RUN is a run's id, name or folder, or last. Settings are those of tracking.*. New clients have
    the ids after the others.
    """
    import numpy as np
    from PIL import Image

    from pipeline.figures.image_grids import image_grid

    saved = spire.load(run, words)
    client_id = saved.id_of(client)
    used = saved.scales(client_id, guidance, next(iter(prompts), None), text_guidance)
    name = "population"
    if client_id is not None:
        name = saved.client_names.get(client_id, f"client_{client_id}")
    name = re.sub(r"[^\w.-]+", "-", f"{name}_seed{seed}.png")
    png = png_path(out or saved.folder.parent / SAMPLES / name)
    num = num or (NUM_PER_PROMPT if prompts else NUM_IMAGES)
    scales = {"guidance": guidance, "text_guidance": text_guidance}
    drawn = [
        spire.draw(saved, client_id, num, prompt=prompt, seed=seed, **scales)
        for prompt in prompts or (None,)
    ]
    images, npz = np.concatenate(drawn), png.with_suffix(".npz")
    np.savez_compressed(npz, images=images)
    Image.fromarray(image_grid(images, num if prompts and num <= MAX_COLUMNS else 8)).save(png)
    values = {"client_id": client_id, "num_images": len(images), "seed": seed, "guidance": used[0]}
    values["artifacts"] = {"png": str(png), "npz": str(npz)}
    values |= {"prompts": [*prompts], "text_guidance": used[1]} if prompts else {}
    return Answer("", values)


@verb()
@of_run
@with_settings
@of_client
@option("--diffusers", required=True, metavar="FOLDER", help="A new folder (docs/retrofit.md).")
def export(run: str, words: Words, client: str | None, diffusers: str) -> Answer:
    """Write a client of a finished run as a folder that diffusers loads.

    RUN is a run's id, name or folder, or last. Settings are those of tracking.*.
    """
    from pipeline.inference.pipeline_folder import write_pipeline

    folder = lasting(diffusers, "--diffusers")
    saved = spire.load(run, words)
    client_id = saved.id_of(client)
    write_pipeline(saved, client_id, folder)
    return Answer("", {"client_id": client_id, "artifacts": {"diffusers": str(folder)}})


@verb()
@of_run
@with_settings
@option("--rounds", type=IntRange(1, 1000), default=4, help="Rounds to simulate (4).")
def audit(run: str, words: Words, rounds: int) -> Answer:
    """Measure what a finished run gives away.

    RUN is a run's id, name or folder, or last. Settings are those of tracking.*, data.root and
    eval.extractor_weights; of rounds, such as client.opt_state, to see what they would change.
    """
    from pipeline.audit.audit import audit_run, record_audit
    from pipeline.cli.sync import sync_runs
    from pipeline.data.fetch import fetch_for

    places = [word for word in words if word.startswith(PLACES)]
    changes = allowed([word for word in words if word not in places], WHAT_IF)
    given = load_config(None, places).tracking
    run_dir = find_run(run, given, is_finished=True)
    if load_result(run_dir) is None:
        raise RunError(f"expected a finished run, got {run}: spire resume {run} first")
    began, _ = load_start(run_dir, given, places)
    fetch_for(began.data, say, begins=False)
    with run_lock(run_dir):
        changed = overridden(began, changes)
        say_without_effect(without_effect(changed, changes))
        outcome = audit_run(run_dir, began, changed, changes, rounds, say)
        path = record_audit(run_dir, outcome)
    if began.tracking.enabled and not changes:
        for synced in sync_runs(given, [run_dir]):
            say(synced["problem"] or "the tracking store has the audit")
    return Answer("", outcome.as_dict() | {"artifacts": {"audit": str(path)}})


# --- data, theory, the machine --------------------------------------------------------------------


@verb()
@argument("name")
@option("--from", "source", metavar="DIR", help="A folder that holds the original files.")
def fetch(name: str, source: str | None) -> Answer:
    """Get a data set (mnist, fashion_mnist, cifar10 or fonts) and check its hashes."""
    from pipeline.data.fetch import fetch

    path = fetch(name, None, source, log=say)
    return Answer(str(path), {"name": name, "path": str(path)})


@verb(epilog=PRESETS)
@with_preset
@option("--out", type=File(dir_okay=False), metavar="PNG", help="Draw it as well.")
def show(words: Words, out: str | None) -> Answer:
    """Show how many images of each class each client holds.

    Clients that exist are shown with their names and captions, and captions with the vocabulary
    that they need.
    """
    from pipeline.cli.texts import partition_json, partition_text
    from pipeline.data.fetch import check_before, fetch_for
    from pipeline.federation.setup import partitioned
    from spire_core.network.words import words_in

    config = load_typed(*preset_and_settings(words))
    check_before(config, say)
    fetch_for(config.data, say)
    data, partition = partitioned(config)
    values = partition_json(partition, data)
    text = partition_text(values)
    if data.captions and config.model.text == "none":
        values["words"] = words_in(data.captions)
        setting = shlex.quote(f"model.words={write_value(values['words'])}")
        text += f"\n\nthe vocabulary of all captions, for model.text=words:\n{setting}"
    if out:
        from pipeline.figures.plots import partition_figure

        path, shown, names = png_path(out), partition.shown, data.class_names
        counts = shown.class_counts(data.labels, len(names))
        figure = partition_figure(
            counts, names, len(shown.train_clients), shown.names or shown.client_ids
        )
        figure.savefig(path)
        values["artifacts"] = {"png": str(path)}
        text += f"\ndrawn in {path}"
    return Answer(text, values)


text = "Get a data set, or show who holds which images."
data = click.Group("data", [fetch, show], help=text, no_args_is_help=False)


@verb(epilog=f"Experiments by name: {', '.join(NAMES)}.")
@argument("words", nargs=-1, required=True, metavar="NAME [KEY=VALUE]...")
@option("--dry-run", is_flag=True, help="Print the settings and stop.")
@option("--out", metavar="DIR", help="Where figures go (the run's folder).")
def theory(words: Words, dry_run: bool, out: str | None) -> Answer:
    """Run the Gaussian-mixture experiments of docs/theory.md."""
    name, settings = split_one(words, "name")
    config = load_theory(name or "none", settings)
    shown = {**config.as_dict(), "experiments": list(config.experiments)}
    if dry_run:
        return Answer(write_yaml(shown, sort_keys=False), {"config": shown})
    from pipeline.theory.run import run_theory

    result = run_theory(config, str(name), lasting(out, "--out") if out else None)
    told = [
        {
            "name": name,
            "title": outcome.title,
            "cpu_s": result.cpu_s[name],
            "numbers": {**outcome.numbers},
            "claims": [{"text": c.text, "is_met": c.is_met} for c in outcome.claims],
            "tables": {title: frame.to_dict("list") for title, frame in outcome.tables.items()},
            "figure": str(result.figures[name]),
        }
        for name, outcome in result.outcomes.items()
    ]
    tracking = config.tracking
    values = {
        "config": shown,
        "ui_command": ui_command(tracking) if tracking.enabled else None,
        "run_id": result.run_id,
        "experiments": told,
    }
    times = ", ".join(f"{name} {s:.1f}" for name, s in result.cpu_s.items())
    figures = "\n".join(f"figure   {path}" for path in result.figures.values())
    parts = [*map(str, result.outcomes.values()), f"CPU seconds: {times}", figures]
    # None: an observation
    has_failed = any(claim["is_met"] is False for one in told for claim in one["claims"])
    return Answer("\n\n".join(parts), values, exit_code=int(has_failed))


@verb()
@option("--metrics", is_flag=True, help="Check KID on the data sets here; exit code 1 if it fails.")
def doctor(metrics: bool) -> Answer:
    """Say what would run where, what is missing, and how to get it."""
    from pipeline.cli.doctor import examine

    state = examine(metrics)
    return Answer("", state, 0 if state["ok"] else 1)


VERBS = (run, try_out, resume, adapt, sample, export, audit, data, theory, doctor, sync, open_ui)


def main(argv: Sequence[str] | None = None, more_verbs: Sequence[click.Command] = ()) -> int:
    """Run `spire` as `run_command` does; `more_verbs` come from packages that build on this one."""
    return run_command(argv, (*VERBS, *more_verbs))
