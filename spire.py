"""SPIRE in Python: the verbs of the command `spire` as functions.

    import spire

    result = spire.run("smoke", {"federation.num_rounds": 50})
    run = spire.load(result.run_id)
    arrival = spire.adapt(run, images)                        # uint8 (N, H, W) or (N, C, H, W)
    drawn = spire.draw(run, arrival.client_id, num_images=8)  # float32 (8, C, H, W) in [-1, 1]

Settings are those of docs/settings.md, as a mapping from whole keys such as "client.lr", or nested,
or as words "client.lr=0.001".
Errors are `spire_core.errors.SpireError`, with one sentence that says what was expected.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.command import say
from pipeline.cli.words import words_of
from pipeline.config.data import OTHER_DATASETS, DataConfig
from pipeline.config.load import load_config
from pipeline.config.meaning import load_typed
from pipeline.config.tracking import TrackingConfig
from pipeline.experiment.launch import ready_for
from pipeline.runs.record import find_run, load_result, load_resumed, new_name, run_lock
from spire_core.config.eval import OTHER_METRICS
from spire_core.config.method import OTHER_METHODS
from spire_core.config.partition import OTHER_PARTITIONS
from spire_core.errors import RunError, StoreError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from pipeline.data.outside import OutsideImages
    from pipeline.experiment.watcher import Watcher
    from pipeline.federation.rounds import RoundStats
    from pipeline.inference.arrival import Arrival
    from pipeline.inference.saved_run import SavedRun
    from pipeline.results.result import Result
    from spire_core.config.partition import PartitionConfig
    from spire_core.methods import Method
    from sweeps.report.make import Report
    from sweeps.sweep import Outcome

Settings = Mapping[str, Any] | Sequence[str]
OnRound = Callable[["RoundStats"], object]
CHANGEABLE = ("resources.", "federation.client_timeout_s=", "data.root=", "eval.extractor_weights=")
CHANGEABLE += ("tracking.enabled=", "tracking.uri=", "tracking.root=", "tracking.storage=")
CHANGEABLE += ("tracking.log_model=", "tracking.profile=", "tracking.checkpoint_every=")
CHANGEABLE += ("tracking.keep_checkpoints=",)  # by a run that goes on
OF_A_FIT = ("adapt.", "privacy.adapt.", "privacy.noise_key=", "tracking.", "data.root=")


class FinishedError(RunError):
    """An interrupted run was expected, and the run has finished: `result` is what it printed."""

    def __init__(self, result: dict[str, Any]) -> None:
        name = result["name"]
        super().__init__(f'expected a run to resume, {name} has finished: spire.load("{name}")')
        self.result = result


def run(
    preset: str = "mnist-cpu",
    settings: Settings | None = None,
    *,
    is_quiet: bool = False,
    on_round: OnRound | None = None,
) -> "Result":
    """Run one experiment from start to end and return its result, as `spire run` does.

    `on_round` is called after each round with its `round_idx`, mean `loss`, seconds and bytes.

    Images that are missing are fetched. Ray starts for the run and ends with it, unless this
    process is part of a cluster already. Progress goes to stderr.
    """
    config = load_typed(preset, words_of(settings))
    with ready_for(config, say):
        from pipeline.experiment.run import run_experiment

        with _watched(is_quiet, on_round) as watcher:
            return run_experiment(config, preset, watcher, name=new_name(config.tracking))


def try_out(
    folder: str | Path,
    *,
    owners: bool | None = None,
    new: str | None = None,
    minutes: float = 3.0,
    is_quiet: bool = False,
) -> "Result":
    """Train on a folder of images for some minutes and write a page, as `spire try` does.

    `owners`: whether its subfolders are people, each with images of their own, or kinds of images.
    `new`: who arrives later. All settings follow from the folder. The page is `people.html` in the
    folder of the result.
    """
    from pipeline.experiment.tryout import PRESET, look, rounds_in, words_for, write_page

    seen = look(folder, owners, new)
    say(seen.text)
    words = words_for(seen, new)
    num_rounds = rounds_in(words, minutes)
    say(f"{num_rounds} rounds, in about {minutes:g} minutes")
    result = run(PRESET, [*words, f"federation.num_rounds={num_rounds}"], is_quiet=is_quiet)
    write_page(result, words)
    return result


def resume(
    name: str | Path = "last",
    settings: Settings | None = None,
    *,
    is_anew: bool = False,
    is_quiet: bool = False,
    on_round: OnRound | None = None,
) -> "Result":
    """Go on with an interrupted run, and return its result, as `spire resume` does.

    `name`: an id, a name or a folder, or the address of the run's copy on a storage. `settings`: of
    tracking and resources, `data.root`, `eval.extractor_weights` and `federation.client_timeout_s`.
    `is_anew`: as `--anew`. `on_round`: as of `run`. FinishedError for a run that has finished.
    """
    words, name = words_of(settings, CHANGEABLE), str(name)
    given = load_config(None, words).tracking
    if "://" in name:
        from pipeline.checkpoint.remote import restore, storage_of

        run_dir = restore(name, given, say)
        if not any(word.startswith("tracking.storage=") for word in words):
            given = replace(given, storage=storage_of(name))
    else:
        run_dir = find_run(name, given)
    if (result := load_result(run_dir)) is not None:
        _end_finished(run_dir, given)
        raise FinishedError(result)
    config, preset = load_resumed(run_dir, given, words)
    with ready_for(config, say, begins=False):
        from pipeline.experiment.run import resume_experiment

        with _watched(is_quiet, on_round) as watcher:
            result = resume_experiment(run_dir, config, watcher, preset=preset, is_anew=is_anew)
        from pipeline.experiment.tryout import tried_words, write_page

    if (words := tried_words(config)) is not None:
        write_page(result, words)
    return result


def load(name: str | Path = "last", settings: Settings | None = None) -> "SavedRun":
    """Return a finished run by its id, name or folder; `settings`: of tracking alone."""
    from pipeline.inference.saved_run import open_run

    return open_run(str(name), words_of(settings, ("tracking.",)))


def draw(
    run: "SavedRun | str | Path" = "last",
    client: int | str | None = None,
    num_images: int = 64,
    *,
    prompt: str | None = None,
    seed: int = 0,
    guidance: float | None = None,
    text_guidance: float | None = None,
) -> "np.ndarray":
    """Return images (n, C, H, W) float32 in [-1, 1] drawn as a client, None for the population.

    `run`: a loaded one, or the word that `load` takes. `client`: its name or its id. `prompt`: the
    subject, of a run with text. The scales of guidance are the client's own or the run's unless
    given; 1 turns them off. ConfigError as `spire sample` says.
    """
    run = _loaded(run)
    client_id = run.id_of(client)
    scale, text_scale = run.scales(client_id, guidance, prompt, text_guidance)
    return run.draw(client_id, num_images, index(seed), scale, prompt, text_scale)


def adapt(
    run: "SavedRun | str | Path",
    images: Any,
    settings: Settings | None = None,
    *,
    captions: Sequence[str] | None = None,
    classes: Sequence[str] = (),
    client: int | str | None = None,
    goes_on: bool = False,
) -> "Arrival":
    """Fit a client that arrives, and save its own part with the run, as `spire adapt` does.

    `images`: as `write_images` takes them, or a data set's name or a folder, of which `classes`, by
    name, are taken, or all. They are cut and scaled as the run's own. `captions` (N): of images in
    memory, for a run with text. `settings`: of `adapt`, `privacy.adapt`, `privacy.noise_key` and
    `data.root`. `client`: a name, or an id that is free. A folder's client has its name by default.
    `goes_on`: the client is one of the run, whose saved part goes on with these images.
    """
    from pipeline.data.catalog import SPECS
    from pipeline.data.fetch import fetch_for
    from pipeline.inference.arrival import adapt_arrival, joining_config
    from pipeline.inference.arrival_images import (
        arrival_of,
        captions_file,
        data_root,
        load_arrival,
    )

    run = _loaded(run)
    config = joining_config(run, words_of(settings, OF_A_FIT))
    root = data_root(run, config)
    if isinstance(images, str | Path):
        if images in SPECS:
            fetch_for(DataConfig(str(images), root), say)
        arriving, folder = load_arrival(run, str(images), classes, root), Path(images).resolve()
        is_new = client is None and not goes_on and str(images) not in SPECS
        if is_new and folder.name not in run.client_names.values():
            client = folder.name or None
        elif is_new:
            say(f"{folder.name} is a client already, so this one has a number and no name")
    else:
        arriving = arrival_of(run, images)
    if captions is not None:
        arriving = replace(arriving, captions=captions)
    if run.has_text and arriving.captions is None:
        say(f"no captions in {captions_file(run)}, so the client learns from images alone")
    return adapt_arrival(run, arriving, config.adapt, client, config.privacy, say, goes_on)


def sweep(
    name_or_file: str | Path,
    settings: Settings | None = None,
    *,
    retry_failed: bool = False,
) -> "Outcome":
    """Run what is left of a sweep, as `spire sweep` does, and return its outcome.

    With `retry_failed` failed trials run again as well. `report` writes the report.
    """
    from sweeps.design.config import load_sweep
    from sweeps.sweep import run_sweep

    return run_sweep(load_sweep(str(name_or_file), words_of(settings)), say, retry_failed)


def report(
    names: str | Sequence[str] = "last",
    settings: Settings | None = None,
    out: str | Path | None = None,
) -> "Report":
    """Write the report of a sweep, or of runs, into the folder `out`, as `spire report` does.

    `names`: the last sweep's by default.
    """
    from sweeps.report.make import make_report

    tracking = load_config(None, words_of(settings, ("tracking.",))).tracking
    several = [names] if isinstance(names, str | Path) else names
    return make_report(tracking, [*map(str, several)], None if out is None else Path(out))


def write_images(
    folder: str | Path,
    images: Iterable[Any],
    labels: Sequence[Any] | None = None,
    clients: Sequence[Any] | None = None,
    captions: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Write images in memory as a folder of your own, and return the settings that train on it.

    `images`: arrays uint8 (H, W), (H, W, C) or (C, H, W), tensors in [0, 1], or PIL images; also a
    torch `Dataset` of `(image, label)` pairs, or rows of a Hugging Face data set with an `image`
    and perhaps a `label`, `client` and `caption`. `clients`: whose an image is; without it a
    partition deals the images out. The folder must be new or empty.
    """
    from pipeline.data.arrays import write_folder

    return write_folder(folder, images, labels, clients, captions)


def register_method(method: "Method", version: str = "0") -> None:
    """Let this process run a method under its name, with `resources.pool=local`.

    Ray's workers know methods of installed packages alone (docs/extending.md). `version` is a part
    of the fingerprint of a run: change it with the method.
    """
    OTHER_METHODS.register(method.name, method, version)


def register_dataset(
    name: str, load: "Callable[[str, str | None], OutsideImages]", version: str = "0"
) -> None:
    """Let this process train on a data set under a name, as `register_method` does a method.

    `load(split, path)` is called with "train" or "test" and the setting `data.path`.
    """
    OTHER_DATASETS.register(name, load, version)


def register_partition(
    name: str,
    partition: "Callable[[np.ndarray, PartitionConfig, int, np.random.Generator], Sequence]",
    version: str = "0",
) -> None:
    """Let this process split data by a function under a name, as `register_method` does a method.

    `partition(labels, config, num_clients, rng)` returns the positions of each client's images, new
    clients last; `config` has the settings `partition.*`.
    """
    OTHER_PARTITIONS.register(name, partition, version)


def register_metric(
    name: str, metric: "Callable[[Tensor, Tensor], float]", version: str = "0"
) -> None:
    """Let this process score new clients by a metric, as `register_method` does a method.

    `metric(drawn, real)` gets images (n, C, H, W) and (m, C, H, W) in [-1, 1]; `eval.metrics` asks
    for it.
    """
    OTHER_METRICS.register(name, metric, version)


def _loaded(run: "SavedRun | str | Path") -> "SavedRun":
    return load(run) if isinstance(run, str | Path) else run


@contextlib.contextmanager
def _watched(is_quiet: bool, on_round: OnRound | None) -> "Iterator[Watcher]":
    """Yield who watches a run; an interrupt says how to go on with one that has begun."""
    from pipeline.cli.progress import Progress
    from pipeline.experiment.watcher import Watcher

    with contextlib.closing(Watcher() if is_quiet else Progress()) as watcher:
        watcher.on_round = on_round
        try:
            yield watcher
        except KeyboardInterrupt as interrupt:
            if watcher.run_dir is None:
                raise
            how = f"spire resume {watcher.run_dir.name} goes on from its last round"
            raise KeyboardInterrupt(how) from interrupt


def _end_finished(run_dir: Path, given: TrackingConfig) -> None:
    """Do the rest for a finished run that was stopped right at its end: its key, its status."""
    from pipeline.runs.noise_key import drop_noise_key
    from pipeline.tracking.tracker import note_end, relay_rest

    drop_noise_key(run_dir)
    try:
        with run_lock(run_dir):
            note_end(run_dir, given, "FINISHED")
            relay_rest(run_dir, given)
    except (RunError, StoreError) as error:  # its process does it, or the store is away
        say(str(error))
