"""SPIRE in Python: the verbs of the command `spire` as functions.

    import spire

    result = spire.run("smoke", {"federation.num_rounds": 50})
    run = spire.load(result.run_id)
    arrival = spire.adapt(run, images)                        # uint8 (N, H, W) or (N, C, H, W)
    drawn = spire.draw(run, arrival.client_id, num_images=8)  # float32 (8, C, H, W) in [-1, 1]

Settings are those of docs/settings.md, as a mapping from whole keys such as "client.lr", or nested.
Errors are `spire_core.errors.SpireError`, with one sentence that says what was expected.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from pipeline.data.outside import OutsideImages
    from pipeline.inference.arrival import Arrival
    from pipeline.inference.saved_run import SavedRun
    from pipeline.results.result import Result
    from spire_core.methods import Method
    from sweeps.report.page import Report
    from sweeps.sweep import Outcome

Settings = Mapping[str, Any]
RUN_NAME = "a run's id, name or folder"
__all__ = ["adapt", "draw", "load", "register_dataset", "register_method", "register_metric"]
__all__ += ["report", "resume", "run", "sweep", "write_images"]


def run(
    preset: str = "mnist-cpu", settings: Settings | None = None, *, is_quiet: bool = False
) -> "Result":
    """Run one experiment from start to end and return its result, as `spire run` does.

    Images that are missing are fetched. Ray starts for the run and ends with it, unless this
    process is part of a cluster already. Progress goes to stderr.
    """
    from pipeline.cli.command import say
    from pipeline.config.meaning import load_typed
    from pipeline.experiment.launch import ready_for
    from spire_core.config.checks import require

    require(preset is not None, "a preset's name", preset, "leave it out for mnist-cpu")
    config = load_typed(preset, _words(settings))
    with ready_for(config, say):
        from pipeline.experiment.run import run_experiment

        with _watcher(is_quiet) as watcher:
            return run_experiment(config, preset, watcher)


def resume(
    name: str | Path = "last",
    settings: Settings | None = None,
    *,
    is_anew: bool = False,
    is_quiet: bool = False,
) -> "Result":
    """Go on with an interrupted run, and return its result, as `spire resume` does.

    `name`: an id, a name or a folder. `settings`: of tracking and resources, `data.root`,
    `eval.extractor_weights` and `federation.client_timeout_s`. `is_anew`: as `--anew`. RunError for
    a run that has finished.
    """
    from pipeline.cli.command import say
    from pipeline.cli.run import CHANGEABLE, end_finished
    from pipeline.cli.settings import word_of
    from pipeline.config.load import load_config
    from pipeline.experiment.launch import ready_for
    from pipeline.runs.folder import load_result
    from pipeline.runs.record import find_run
    from pipeline.runs.start import load_resumed
    from spire_core.errors import RunError

    words = _words(settings, CHANGEABLE)
    given = load_config(None, words).tracking
    run_dir = find_run(word_of(name, RUN_NAME), given)
    if (result := load_result(run_dir)) is not None:
        end_finished(run_dir, given)
        run_id = result["run_id"]
        raise RunError(
            f'expected an interrupted run, got {run_id}, which has finished: spire.load("{run_id}")'
        )
    config, preset = load_resumed(run_dir, given, words)
    with ready_for(config, say, begins=False):
        from pipeline.experiment.run import resume_experiment

        with _watcher(is_quiet) as watcher:
            return resume_experiment(run_dir, config, watcher, preset=preset, is_anew=is_anew)


def load(name: str | Path = "last", settings: Settings | None = None) -> "SavedRun":
    """Return a finished run by its id, name or folder; `settings`: of tracking alone."""
    from pipeline.cli.settings import word_of
    from pipeline.inference.saved_run import open_run

    return open_run(word_of(name, RUN_NAME), _words(settings, ("tracking.",)))


def draw(
    run: "SavedRun",
    client_id: int | None = None,
    num_images: int = 64,
    *,
    prompt: str | None = None,
    seed: int = 0,
    guidance: float | None = None,
    text_guidance: float | None = None,
) -> "np.ndarray":
    """Return images (n, C, H, W) float32 in [-1, 1] drawn as a client, None for the population.

    `prompt`: the subject, of a run with text. The scales of guidance are the client's own or the
    run's unless given; 1 turns them off. ConfigError as `spire sample` says.
    """
    from pipeline.cli.settings import plain
    from pipeline.config.load import build
    from pipeline.inference.saved_run import Drawing
    from spire_core.config.checks import require

    _check_run(run)
    values = {"client_id": client_id, "num_images": num_images, "prompt": prompt}
    values |= {"guidance": guidance, "text_guidance": text_guidance}
    asked = build(Drawing, plain(values))
    whole = hasattr(seed, "__index__")  # of any size, where settings have 64 bits
    require(whole, "seed as int", repr(seed), "change its value")
    scale, text_scale = run.scales(asked)
    return run.draw(asked.client_id, asked.num_images, index(seed), scale, asked.prompt, text_scale)


def adapt(
    run: "SavedRun",
    images: Any,
    settings: Settings | None = None,
    *,
    captions: Sequence[str] | None = None,
    client_id: int | None = None,
) -> "Arrival":
    """Fit a client that arrives, and save its own part with the run, as `spire adapt` does.

    `images`: uint8 (N, H, W) or (N, C, H, W) at the run's size, or a data set's name or a folder,
    as the command takes them. `captions` (N): of images in memory, for a run with text.
    `settings`: of `adapt` and `privacy.adapt`. `client_id`: the next free one unless given.
    """
    from pipeline.cli.settings import plain
    from pipeline.config.load import build
    from pipeline.data.arrays import uint8_images
    from pipeline.inference.arrival import adapt_arrival
    from pipeline.inference.arrival_images import ArrivingImages, load_arrival
    from pipeline.inference.joining import Joining, data_root, joining_config

    _check_run(run)
    joining = build(Joining, plain({"client_id": client_id}))
    words = _words(settings, ("adapt.", "privacy.adapt.", "privacy.noise_key=", "data.root="))
    config = joining_config(run, words)
    if isinstance(images, str | Path):
        arriving = load_arrival(run, str(images), (), data_root(run, config))
    else:
        arriving = ArrivingImages(uint8_images(images, run.image_shape))
    if captions is not None:
        arriving = replace(arriving, captions=captions)
    return adapt_arrival(run, arriving, config.adapt, joining.client_id, config.privacy)


def sweep(
    name_or_file: str | Path,
    settings: Settings | None = None,
    *,
    retry_failed: bool = False,
) -> "Outcome":
    """Run what is left of a sweep, as `spire sweep` does, and return its outcome.

    With `retry_failed` failed trials run again as well. `report` writes the report.
    """
    from pipeline.cli.command import say
    from sweeps.design.load import load_study
    from sweeps.sweep import run_sweep

    loaded, recorded = load_study(str(name_or_file), _words(settings))
    return run_sweep(loaded, say, retry_failed, recorded)


def report(
    names: str | Sequence[str] = "last",
    settings: Settings | None = None,
    out: str | Path | None = None,
) -> "Report":
    """Write the report of a sweep, or of runs, into the folder `out`, as `spire report` does.

    `names`: the last sweep's by default.
    """
    from pipeline.cli.settings import word_of
    from pipeline.config.load import load_config
    from spire_core.config.checks import require
    from sweeps.report.make import make_report

    tracking = load_config(None, _words(settings, ("tracking.",))).tracking
    several = [names] if isinstance(names, str) or not isinstance(names, Iterable) else names
    words = [word_of(name, "names of a sweep or of runs") for name in several]
    advice = "name one, or leave names out for the last sweep"
    require(bool(words), "a sweep or runs", "none", advice)
    return make_report(tracking, words, None if out is None else Path(_file(out)))


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

    return write_folder(_file(folder), images, labels, clients, captions)


def register_method(method: "Method", version: str = "0") -> None:
    """Let this process run a method under its name, with `resources.pool=local`.

    Ray's workers know methods of installed packages alone (docs/extending.md). `version` is a part
    of the fingerprint of a run: change it with the method.
    """
    from spire_core.config.checks import require
    from spire_core.config.method import OTHER_METHODS

    name = getattr(method, "name", None)
    advice = "docs/extending.md has an example"
    require(name is not None, "a spire_core.methods.Method", repr(method), advice)
    OTHER_METHODS.register(str(name), method, version)


def register_dataset(
    name: str, load: "Callable[[str, str | None], OutsideImages]", version: str = "0"
) -> None:
    """Let this process train on a data set under a name, as `register_method` does a method.

    `load(split, path)` is called with "train" or "test" and the setting `data.path`.
    """
    from pipeline.config.data import OTHER_DATASETS

    OTHER_DATASETS.register(name, load, version)


def register_metric(
    name: str, metric: "Callable[[Tensor, Tensor], float]", version: str = "0"
) -> None:
    """Let this process score new clients by a metric, as `register_method` does a method.

    `metric(drawn, real)` gets images (n, C, H, W) and (m, C, H, W) in [-1, 1]; `eval.metrics` asks
    for it.
    """
    from spire_core.config.eval import OTHER_METRICS

    OTHER_METRICS.register(name, metric, version)


def _words(settings: Settings | None, prefixes: tuple[str, ...] = ("",)) -> list[str]:
    """Return settings as the words that the command takes; ConfigError as `words_of` says."""
    from pipeline.cli.settings import words_of

    return words_of(settings, prefixes)


def _file(path: Any) -> str:
    """Return a file or a folder as text; ConfigError if it is none."""
    from pipeline.cli.settings import word_of

    return word_of(path, "a file or a folder")


def _check_run(run: Any) -> None:
    """Raise ConfigError for something else than a finished run that is loaded, such as its name."""
    from spire_core.config.checks import require

    advice = "load it first: spire.load(NAME)"
    require(hasattr(run, "draw"), "a run that spire.load returns", repr(run), advice)


def _watcher(is_quiet: bool) -> Any:
    import contextlib

    from pipeline.cli.progress import Progress
    from pipeline.experiment.watcher import Watcher

    return contextlib.closing(Watcher() if is_quiet else Progress())


if __name__ == "__main__":  # `python -m spire ...` is the command `spire ...`
    import os
    import sys

    if sys.path[0] == os.getcwd() != os.path.dirname(os.path.realpath(__file__)):
        del sys.path[0]  # the user's folder may hold files with the names of these packages
    from sweeps.cli import main

    sys.exit(main())
