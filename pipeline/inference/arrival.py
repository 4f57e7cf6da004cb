"""A client that arrives after a run has ended: it fits its own part on the finished backbone.

Its images come from a data set's test split, which no pre-training uses, or from a folder.
"""

import contextlib
import html
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from PIL import Image
from torch import Tensor

from pipeline.clients.client_data import ClientData
from pipeline.clients.worker import ClientWorker
from pipeline.config.load import flattened, overridden, read_words
from pipeline.config.meaning import say_without_effect, without_effect
from pipeline.config.schema import Config
from pipeline.evaluation.diagnosis import Diagnosis, adaptation_diagnosis
from pipeline.federation.messages import AdaptReport, FitPlan, WorkerSetup, report_of
from pipeline.federation.setup import extractor_of, public_representatives
from pipeline.figures.image_grids import image_grid, inline
from pipeline.inference.arrival_images import ArrivingImages, held_back
from pipeline.inference.saved_run import SavedRun
from pipeline.runs.model_files import client_path, save_client
from pipeline.runs.noise_key import key_for
from spire_core.adaptation.adapt import AdaptPoint
from spire_core.config.adapt import AdaptConfig
from spire_core.config.model import ModelConfig
from spire_core.config.privacy import PrivacyConfig
from spire_core.errors import DataError, RunError
from spire_core.federated.private_state import PrivateState
from spire_core.methods import CLIENT_EMB
from spire_core.partition.split import ClientSplit, Partition
from spire_core.privacy.noise import SecretNoise
from spire_core.rng import numpy_generator

MIN_IMAGES = 3  # one to learn from, two to measure on
OF_RUNS = ("adapt.tune_epochs", "adapt.group_size", "adapt.local_init")  # no arriving client's


@dataclass(frozen=True, kw_only=True)
class Arrival(AdaptReport):
    """A client that has arrived: the report of its fit, and the files that were written."""

    name: str | None
    path: Path
    grid_path: Path
    num_train: int
    num_test: int
    diagnosis: Diagnosis | None

    def _repr_html_(self) -> str:
        """Return the client's scores by epoch and what it draws, as a notebook shows them."""
        import pandas as pd  # takes a second

        rows = [{"epoch": one.epoch} | dict(one.observed) for one in self.curve if one.observed]
        table = pd.DataFrame(rows).to_html(index=False, float_format="{:.3g}".format)
        picture = inline(np.asarray(Image.open(self.grid_path)))
        return f"<b>{html.escape(self.name or str(self.client_id))}</b>{table}<img src={picture!r}>"


def joining_config(run: SavedRun, overrides: Sequence[str]) -> Config:
    """Return the settings of a new client: the run's own of `adapt` and privacy, and overrides.

    The label of the run's noise key is not among them. ConfigError if a setting is wrong.
    """
    began = run.config
    base = replace(
        Config(),
        method=began.method,
        model=replace(ModelConfig(), backbone=began.model.backbone),
        adapt=replace(began.adapt, tune_epochs=0),
        privacy=PrivacyConfig(adapt=began.privacy.adapt),
    )
    config = overridden(base, overrides)
    faults, typed = without_effect(config, overrides), flattened(read_words(overrides))
    faults |= {key: f"{key} is not of a client that arrives" for key in OF_RUNS if key in typed}
    say_without_effect(faults)
    return config


def adapt_arrival(
    run: SavedRun,
    arriving: ArrivingImages,
    config: AdaptConfig,
    client: int | str | None = None,
    privacy: PrivacyConfig = PrivacyConfig(),  # noqa: B008
    say: Callable[[str], object] = lambda text: None,
    goes_on: bool = False,
) -> Arrival:
    """Fit a new client's part on its images and save it with the run.

    With `goes_on` the client is one of the run, and its saved part goes on from where it is.

    A share of the images, the run's `partition.test_fraction`, is held out to measure on. `client`
    is a name or an id that is free; without an id, the client gets the next one. With a budget in
    `privacy` the fit is differentially private, under a key that is forgotten at the end. `say` is
    told when it begins. Raises RunError if the name or id is taken or the method has no personal
    part, DataError for too few images or a word that the run does not know, ConfigError for privacy
    that cannot be kept, and for captions without a run with text.
    """
    if not run.config.method.record.adapt_parts:
        raise RunError(
            f"expected a method with a personal part, got {run.config.method.name}: "
            "name a run of spire, fedavg_ft or shared_rep"
        )
    images, captions = arriving.images, arriving.captions
    tokens = None if captions is None else run.caption_tokens(captions, "captions")
    settings = replace(run.config, adapt=config, privacy=privacy.labelled())
    has_gpu = settings.resources.device != "cpu" and torch.cuda.is_available()
    mean_emb = mean_start(run, config)
    if goes_on:
        client_id, began = saved_part(run, client, privacy)
        name, reserved = run.client_names.get(client_id), contextlib.nullcontext(client_id)
    else:
        name, began = client if isinstance(client, str) and not client.isdecimal() else None, None
        if name in run.client_names.values():
            raise RunError(
                f"expected a name that is free, got {name!r}: choose another, or go on with the "
                "fit of that client by --more-data"
            )
        reserved = reserved_id(run, None if client is None or name else int(client))
    with (
        reserved as client_id,
        tempfile.TemporaryDirectory(prefix="spire-") as scratch,
    ):
        split = split_of(arriving, run, config.num_images, client_id)
        private, epochs = privacy.adapt, f"up to {config.epochs} epochs"
        length = f"{private.steps} private steps" if private.is_on else epochs
        say(f"fitting a new client for {length}")
        folder, partition = Path(scratch) / "run", Partition((), (split,))
        folder.mkdir()
        mixtures = {} if arriving.mixture is None else {client_id: arriving.mixture}
        setup = WorkerSetup(settings, mixtures, partition, extractor_of(settings), folder, tokens)
        worker = _Worker(setup, images, "cuda" if has_gpu else "cpu")
        worker.began = began
        # The population's features are unknown here. Its score is left out, see `_known_scores`.
        plan = FitPlan(run.weights.numpy(), worker.real_features(client_id), mean_emb)
        if privacy.is_on:  # with a noise key that no file gets
            is_simulated = privacy.noise_key is not None
            worker.noise = SecretNoise(key_for(privacy), is_simulated=is_simulated)
            plan = replace(plan, clip_norm=worker.clip_norm(client_id, plan))
        [fitted] = worker.adapt([client_id], plan)
        report = report_of(fitted, worker.look([client_id], plan, fitted.asked))
        parts = worker.private_state(client_id).parts
        texts = report.guarantee.as_texts() if report.guarantee else {}
        path = save_client(run.folder, client_id, parts, texts, report.guidance, name)
        Image.fromarray(image_grid(report.after.images, 8)).save(path.with_suffix(".png"))
    shown = replace(report, curve=tuple(map(_known_scores, report.curve)))
    return Arrival(
        **vars(shown),
        name=name,
        path=path,
        grid_path=path.with_suffix(".png"),
        num_train=len(split.train),
        num_test=len(split.test),
        diagnosis=adaptation_diagnosis([report], run.config),
    )


class _Worker(ClientWorker):
    """Simulates the one client that arrives, whatever its id; `began`: the part that it has."""

    began: PrivateState | None = None

    def start_state(self, client_id: int, mean_emb: Tensor | None = None) -> PrivateState:
        return self.began or super().start_state(client_id, mean_emb)

    def client_data(self, client_id: int) -> ClientData:
        setup, [split] = self.setup, self.setup.partition.new_clients
        mixture = setup.mixtures.get(client_id)
        return ClientData(split, self.images, mixture, setup.tokens, encode=self.encode)


def saved_part(
    run: SavedRun, client: int | str | None, privacy: PrivacyConfig
) -> tuple[int, PrivateState]:
    """Return the id and the saved part of a client whose fit goes on.

    RunError if it has none, or if either fit is private: what was promised of the first would not
    say what the second adds.
    """
    client_id = run.id_of(client)
    if client_id is None or privacy.is_on or run.is_private(client_id):
        got = "none" if client_id is None else "a private fit"
        raise RunError(f"expected a client without privacy whose fit goes on, got {got}: name one")
    return client_id, PrivateState(run.client_state(client_id).parts)


@contextlib.contextmanager
def reserved_id(run: SavedRun, client_id: int | None = None) -> Iterator[int]:
    """Yield the given id, or the next free one, which no other process gets until the end.

    RunError if the given one is a client's.
    """
    first = run.config.federation.num_clients + run.config.federation.num_new_clients
    next_id = max([first - 1, *run.client_ids]) + 1
    for wanted in itertools.count(next_id) if client_id is None else [client_id]:
        path = client_path(run.folder, wanted)
        if wanted < first or path.exists():
            continue
        path.parent.mkdir(exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        with contextlib.suppress(Timeout), lock.acquire(timeout=0):
            if not path.exists():
                yield wanted
                path.with_suffix(".lock").unlink()
                return
    next_id = max(next_id, (client_id or 0) + 1)
    raise RunError(f"expected a client id that is free, got {client_id}: {next_id} is the next")


def split_of(
    arriving: ArrivingImages, run: SavedRun, limit: int | None, client_id: int
) -> ClientSplit:
    """Return which images a client learns from (at most `limit`) and which it is measured on.

    Those that the run hides from new clients are test images.
    """
    num_images, back, config = len(arriving.images), held_back(run, arriving), run.config
    if num_images < MIN_IMAGES:
        raise DataError(
            f"expected at least {MIN_IMAGES} images of the new client, got {num_images}: add some"
        )
    order = numpy_generator(config.seed, "arrival", client_id).permutation(num_images)
    num_test = min(max(2, round(config.partition.test_fraction * num_images)), num_images - 1)
    test, others = order[:num_test], order[num_test:]
    train, hidden = others[~back[others]], others[back[others]]
    if len(train) == 0:
        raise DataError(
            "expected images of the new client that the run's partition.hidden and "
            "hidden_from_new do not hide, got none to train on: add some"
        )
    return ClientSplit(client_id, train[:limit], np.concatenate([test, hidden]))


def mean_start(run: SavedRun, config: AdaptConfig) -> Tensor | None:
    """Return the mean of the clients' embeddings (D_emb,), if the fit starts there."""
    if config.init != "mean" or not run.config.method.record.has_embedding:
        return None
    if run.config.privacy.rounds.is_on:
        raise RunError(
            "expected adapt.init=zero or random for a run with privacy.rounds.epsilon, got mean: "
            "the mean of its clients' embeddings has no noise"
        )
    ids = [c for c in public_representatives(run.config) if c in run.client_ids]
    return torch.stack([run.client_state(c).parts[CLIENT_EMB] for c in ids]).mean(0)


def _known_scores(point: AdaptPoint) -> AdaptPoint:
    """Return a point without the population's score, and without scores that are not a number."""
    if point.observed is None:
        return point
    kept = {k: v for k, v in point.observed.items() if k != "population_kid" and not np.isnan(v)}
    return replace(point, observed=kept)
