"""The clients' side: one worker simulates many clients, one after the other, none kept in memory.

A worker is the same class in this process and inside a Ray actor. Images and private states stay
here; what it returns are updates of the shared weights and measurements.
"""

import functools
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.profiler import profile, record_function

from pipeline.allocation import keep_freed_memory
from pipeline.client_store import ClientStore
from pipeline.messages import AdaptReport, Drawn, Fitted, Look, Losses, WorkerSetup
from pipeline.profiling import save_profile, start_profile
from pipeline.saved_run import save_client
from spire_core.adapt import AdaptConfig, adapt_client, num_trained
from spire_core.adapt_together import adapt_embeddings
from spire_core.client import (
    Broadcast,
    ClientUpdate,
    PrivateState,
    RoundPlan,
    new_private_state,
    personalise,
    train_client,
)
from spire_core.compression import CompressedUpdate, compress
from spire_core.evaluate import client_denoiser, draw, draw_together, heldout_losses
from spire_core.extractor import (
    Extractor,
    cached_features,
    is_classifier_of,
    make_extractor,
)
from spire_core.flat import FlatModel, initial_weights, tensors_hash
from spire_core.group_training import train_group
from spire_core.grouped import FlatGroup, choose_engine
from spire_core.kid import kid
from spire_core.methods import CLIENT_EMB
from spire_core.metrics import class_histogram, nearest_neighbour_distance, total_variation
from spire_core.rng import torch_generator
from spire_core.schedule import make_schedule
from spire_core.secure_sum import masked
from spire_core.training import Recipe, to_float

Seen = tuple[Drawn, Tensor, dict[str, float], Tensor]  # see `_Observer.look`


class ClientWorker:
    """Simulates clients on one device with one thread; see the module's docstring."""

    def __init__(self, setup: WorkerSetup, images: np.ndarray, device: str = "cpu") -> None:
        """Take the setup and all clients' uint8 images (N, C, H, W), maybe in shared memory."""
        torch.set_num_threads(1)
        keep_freed_memory()
        self.setup, self.config, self.images = setup, setup.config, images
        self.device = torch.device(device)
        config = setup.config
        self.schedule = make_schedule(config.diffusion.schedule, config.diffusion.num_timesteps).to(
            self.device
        )
        self.store = ClientStore(setup.folder / "clients")
        self.model = self._new_model()
        self._extractor: Extractor | None = None
        self._profile: profile | None = None

    def _new_model(self) -> FlatModel:
        config = self.config
        model = FlatModel(config.model, config.method, self.images.shape[1], self.device)
        model.net.eval()  # training turns dropout on, and off again at its end
        return model

    @functools.cached_property
    def group(self) -> FlatGroup:
        """As many networks as are computed together, made when first needed."""
        config = self.config
        return FlatGroup(
            config.model,
            config.method,
            self.images.shape[1],
            config.client.largest_group(config.federation.cohort_size),
            self.device,
        )

    @property
    def extractor(self) -> Extractor:
        if self._extractor is None:
            weights = self.config.eval.extractor_weights
            self._extractor = make_extractor(self.setup.extractor, weights)
        return self._extractor

    def recipe(self, emb_dropout: float = 0.0) -> Recipe:
        config = self.config
        client = config.client
        return Recipe(config.diffusion, self.schedule, client.betas, emb_dropout, client.precision)

    def train_images(self, client_id: int) -> Tensor:
        return torch.from_numpy(self.images[self.setup.partition.split(client_id).train])

    def test_images(self, client_id: int, limit: int | None = None) -> Tensor:
        return torch.from_numpy(self.images[self.setup.partition.split(client_id).test[:limit]])

    # --- pre-training -----------------------------------------------------------------------------

    def private_state(self, client_id: int, num_rounds_done: int | None = None) -> PrivateState:
        """Return a pre-training client's private state, drawn afresh if it has never trained."""
        stored = self.store.load(client_id, num_rounds_done)
        if stored is not None:
            return stored
        config = self.config
        return new_private_state(
            self.model, config.client, config.model.d_emb, config.seed, client_id
        )

    def fit_group(
        self, client_ids: Sequence[int], broadcast: Broadcast, plan: RoundPlan
    ) -> list[ClientUpdate | CompressedUpdate]:
        """Return the updates of clients that are computed together, as they travel.

        Their new states stay here.
        """
        done, sent = plan.round_idx + 1, []
        before = [self.private_state(client_id, plan.round_idx) for client_id in client_ids]
        with record_function(f"round {done}, clients {', '.join(map(str, client_ids))}"):
            finished = self._trained(client_ids, before, broadcast, plan)
        for own, (update, trained) in zip(before, finished, strict=True):
            message, kept = compress(update, broadcast, own, self.config.client)
            if state := trained | kept:
                self.store.save(update.client_id, done, state, plan.kept_rounds)
            sent.append(message)
        return sent

    def rehearse(self) -> None:
        """Take one optimizer step as in a round, and keep nothing of it: its memory is measured."""
        config = self.config
        engine = choose_engine(config.client.engine, config.model)
        client = replace(config.client, engine=engine)
        group = client.groups(range(config.federation.cohort_size))[0]
        nobody = Broadcast(self.model.weights.cpu().numpy().copy())
        states = [self.private_state(client_id, 0) for client_id in group]
        self._trained(group, states, nobody, RoundPlan(0, lr_scale=0.0, shares_local=True, tau=1))

    def _trained(
        self,
        client_ids: Sequence[int],
        states: Sequence[PrivateState],
        broadcast: Broadcast,
        plan: RoundPlan,
    ) -> list[tuple[ClientUpdate, PrivateState]]:
        config = self.config
        if len(client_ids) == 1:
            [client_id] = client_ids
            trained = train_client(
                self.model,
                broadcast,
                states[0],
                self.train_images(client_id),
                config.client,
                self.recipe(config.client.emb_dropout),
                plan,
                config.seed,
                client_id,
            )
            return [trained]
        return train_group(
            self.group,
            broadcast,
            states,
            [self.train_images(client_id) for client_id in client_ids],
            config.client,
            self.recipe(config.client.emb_dropout),
            plan,
            config.seed,
            client_ids,
        )

    def start_profile(self) -> None:
        """Have torch watch what this worker computes from now on."""
        self._profile = start_profile(self.device)

    def save_profile(self, folder: Path, name: str) -> bool:
        """Write what was seen since `start_profile`; False if this worker began after that."""
        if self._profile is None:
            return False
        save_profile(self._profile, self.device, folder, name)
        self._profile = None
        return True

    def stop_profile(self) -> None:
        """Watch no longer, and keep nothing of what was seen."""
        if self._profile is not None:
            self._profile.stop()
            self._profile = None

    def undo_round(self, client_id: int, round_idx: int) -> None:
        """Forget what a client learnt in a round whose update was not used."""
        self.store.rewind(round_idx, client_id)

    def export(self, client_id: int, folder: Path) -> str:
        """Write a client's own parts into a finished run's folder; return their SHA-256."""
        state = self.private_state(client_id)
        own = _own(state)
        if own:
            save_client(folder, client_id, own)
        return tensors_hash(own)

    def masked_embedding(self, client_id: int, cohort: list[int]) -> np.ndarray:
        """Return this client's embedding under masks that cancel in the cohort's sum.

        This is secure aggregation.
        """
        emb = self.private_state(client_id)[CLIENT_EMB]
        return masked(emb, client_id, cohort, self.config.seed)

    # --- evaluation -------------------------------------------------------------------------------

    def real_features(self, client_id: int) -> Tensor:
        """Return features (n, D) of a client's test images."""
        images = to_float(self.test_images(client_id))
        return cached_features(self.extractor, images, self.setup.folder.parent / "cache")

    def _images(
        self,
        client_id: int,
        model: FlatModel,
        emb: Tensor | None,
        reference: FlatModel | None = None,
    ) -> Tensor:
        """Return images (n, C, H, W) drawn as a client with whatever the model holds."""
        config = self.config
        return draw(
            client_denoiser(model, emb, config.eval.guidance, reference),
            config.diffusion,
            self.schedule,
            self.images.shape[1:],  # type: ignore[arg-type]
            config.eval.num_images,
            torch_generator(config.seed, "sample", client_id),
            config.eval.batch_size,
        )

    def _images_together(self, client_ids: Sequence[int], embs: Sequence[Tensor]) -> list[Tensor]:
        """Return for each client what `_images` returns, drawn as one batch."""
        config, rows = self.config, torch.stack(list(embs)).to(self.device)
        return draw_together(
            lambda who: client_denoiser(self.model, rows[who], config.eval.guidance),
            config.diffusion,
            self.schedule,
            self.images.shape[1:],  # type: ignore[arg-type]
            config.eval.num_images,
            [torch_generator(config.seed, "sample", client_id) for client_id in client_ids],
            config.eval.batch_size,
        )

    def _drawn(self, client_id: int, images: Tensor) -> Drawn:
        """Return what the evaluation needs of a client's generated images (n, C, H, W)."""
        config = self.config
        predicted, histogram = self.extractor.class_predictions(images), None
        # The classifier of another data set sees features, but none of these classes.
        if predicted is not None and is_classifier_of(self.setup.extractor, config.data.name):
            histogram = class_histogram(predicted, len(self.setup.mixtures[client_id]))
        few = images[: config.eval.grid_images].numpy()
        return Drawn(client_id, self.extractor.features(images), histogram, few)

    def draw(self, client_ids: Sequence[int], weights: np.ndarray) -> list[Drawn]:
        """Return images drawn as pre-training clients with these backbone weights (P,).

        Clients that differ by their embeddings alone are drawn as one batch.
        """
        backbone = torch.tensor(weights, device=self.device)
        states = [self.private_state(client_id) for client_id in client_ids]
        if all(state.keys() and set(_own(state)) == {CLIENT_EMB} for state in states):
            self.model.load(backbone)
            images = self._images_together(client_ids, [state[CLIENT_EMB] for state in states])
        else:
            images = [
                self._images(client_id, self.model, personalise(self.model, backbone, state))
                for client_id, state in zip(client_ids, states, strict=True)
            ]
        return [self._drawn(c, drawn) for c, drawn in zip(client_ids, images, strict=True)]

    def losses(self, client_id: int, weights: np.ndarray, swap_with: int) -> Losses:
        """Return a client's held-out losses; `swap_with`: whose embedding is tried on."""
        state = self.private_state(client_id)
        emb = personalise(self.model, torch.tensor(weights, device=self.device), state)
        other = self.private_state(swap_with).get(CLIENT_EMB)
        return Losses(
            client_id,
            self._heldout(client_id, emb),
            None if emb is None else self._heldout(client_id, torch.zeros_like(emb)),
            None if other is None else self._heldout(client_id, other.to(self.device)),
        )

    def losses_as(self, client_id: int, weights: np.ndarray, others: Sequence[int]) -> list[float]:
        """Return a client's held-out loss with each of these clients' own parts, at one noise."""
        backbone = torch.tensor(weights, device=self.device)
        return [
            self._heldout(client_id, personalise(self.model, backbone, self.private_state(other)))
            for other in others
        ]

    def _heldout(self, client_id: int, emb: Tensor | None) -> float:
        return float(self._heldout_each(client_id, emb).mean())

    def _heldout_each(self, client_id: int, emb: Tensor | None) -> Tensor:
        """Return the loss (n,) on each of a client's held-out images."""
        images = self.test_images(client_id, self.config.eval.num_loss_images)
        more = (self.recipe(), self.config.seed, client_id)
        return heldout_losses(self.model, emb, images, *more).cpu()

    # --- new clients ------------------------------------------------------------------------------

    def start_state(self, client_id: int, init: str, mean_emb: Tensor | None) -> PrivateState:
        """Return what a new client starts from: the zero, mean or random embedding, or nothing."""
        config = self.config
        if not config.method.record.has_embedding:
            return {}
        if init == "mean" and mean_emb is not None:
            return {CLIENT_EMB: mean_emb.clone()}
        if init == "random":
            return new_private_state(
                self.model, config.client, config.model.d_emb, config.seed, client_id
            )
        return {CLIENT_EMB: torch.zeros(config.model.d_emb)}

    def fit_embeddings(
        self,
        client_ids: Sequence[int],
        weights: np.ndarray,
        settings: AdaptConfig,
        mean_emb: Tensor | None,
    ) -> list[Fitted]:
        """Fit new clients' embeddings on the backbone (P,) in one batch; keep them here.

        Beside the result each keeps its embedding after every epoch that is to be looked at.
        """
        began, config = time.monotonic(), self.config
        states: list[PrivateState] = [{} for _ in client_ids]
        adapted = adapt_embeddings(
            self.model,
            torch.tensor(weights, device=self.device),
            [self.start_state(client_id, settings.init, mean_emb) for client_id in client_ids],
            [self.train_images(client_id) for client_id in client_ids],
            settings,
            self.recipe(),
            config.seed,
            client_ids,
            [functools.partial(_remember, state) for state in states],
        )
        duration_s = (time.monotonic() - began) / len(client_ids)
        fitted = []
        for client_id, result, state in zip(client_ids, adapted, states, strict=True):
            state[_after(result.kept_epoch)] = result.state[CLIENT_EMB].clone()
            self.store.save(client_id, 0, state | result.state)
            looks = {p.epoch for p in result.curve if p.observed is not None} | {result.kept_epoch}
            trained = num_trained(self.model, config.model.d_emb)
            told = (result.curve, result.kept_epoch, tuple(sorted(looks)), trained, duration_s)
            fitted.append(Fitted(client_id, *told))
        return fitted

    def look(
        self,
        client_ids: Sequence[int],
        weights: np.ndarray,
        pooled_features: Tensor,
        epochs: Sequence[int],
        is_whole: Sequence[bool],
    ) -> list[Look]:
        """Return what new clients draw on the backbone (P,) after some epochs, as one batch.

        `epochs` and `is_whole` (whether the images' features are asked for) go with `client_ids`,
        where a client may stand several times.
        """
        began, looks = time.monotonic(), []
        self.model.load(torch.tensor(weights, device=self.device))
        states = [self.private_state(client_id) for client_id in client_ids]
        embs = [state[_after(epoch)] for state, epoch in zip(states, epochs, strict=True)]
        images = self._images_together(client_ids, embs)
        drawn_s = (time.monotonic() - began) / len(client_ids)
        for client_id, emb, own, whole in zip(client_ids, embs, images, is_whole, strict=True):
            began = time.monotonic()
            drawn = self._drawn(client_id, own)
            heldout = self._heldout_each(client_id, emb.to(self.device))
            scores = self._scores(drawn, heldout, pooled_features)
            nn_train, nn_test = self._distances(client_id, own)
            duration_s = drawn_s + time.monotonic() - began
            shown = drawn if whole else None
            looks.append(Look(shown, scores, heldout, nn_train, nn_test, duration_s))
        return looks

    def _scores(self, drawn: Drawn, heldout: Tensor, pooled_features: Tensor) -> dict[str, float]:
        """Return KID against the client's and the population's data, TV, and held-out loss.

        `heldout` (n,) is what `_heldout_each` returned.
        """
        config, client_id = self.config, drawn.client_id
        sizes = (config.eval.kid_subset_size, config.eval.kid_num_subsets, config.seed)
        own = kid(self.real_features(client_id), drawn.features, *sizes)
        observed = {
            "own_kid": own.mean,
            "own_kid_std": own.std,
            "population_kid": kid(pooled_features, drawn.features, *sizes).mean,
            "heldout_loss": float(heldout.mean()),
        }
        if drawn.histogram is not None:
            observed["tv"] = total_variation(drawn.histogram, self.setup.mixtures[client_id])
        return observed

    def _distances(self, client_id: int, images: Tensor) -> tuple[float, float]:
        """Return how far images are from as many training and held-out images of a client."""
        train, test = self.train_images(client_id), self.test_images(client_id)
        count = min(len(train), len(test))
        return (
            nearest_neighbour_distance(images, to_float(train[:count])),
            nearest_neighbour_distance(images, to_float(test[:count])),
        )

    def adapt(
        self,
        client_id: int,
        weights: np.ndarray,
        settings: AdaptConfig,
        mean_emb: Tensor | None,
        pooled_features: Tensor,
    ) -> AdaptReport:
        """Fit a new client on the backbone (P,), measure it on the way; keep its own parts here.

        `pooled_features` (n, D) are features of the pre-training population's held-out images.
        """
        began, config = time.monotonic(), self.config
        start = torch.tensor(weights, device=self.device)
        if not config.method.record.is_federated:
            start = initial_weights(
                config.model, config.method, self.images.shape[1], config.seed, client_id
            ).to(self.device)
        reference = None
        if config.eval.guidance != 1.0 and not config.method.record.has_embedding:
            reference = self._new_model()
            reference.load(start)
        observer = _Observer(self, client_id, reference, pooled_features)
        adapted = adapt_client(
            self.model,
            start,
            self.start_state(client_id, settings.init, mean_emb),
            self.train_images(client_id),
            settings,
            self.recipe(),
            config.seed,
            client_id,
            observer,
        )
        self.store.save(client_id, 0, adapted.state)
        if observer.last_epoch == adapted.kept_epoch:  # as always without early stopping
            look = observer.last
        else:
            look = observer.look(self.model, personalise(self.model, start, adapted.state))
        after, images, scores, heldout = look
        return AdaptReport(
            client_id,
            adapted.curve,
            adapted.kept_epoch,
            observer.first,
            after,
            scores,
            observer.heldout | {adapted.kept_epoch: heldout},
            *self._distances(client_id, images),
            num_trained(self.model, config.model.d_emb),
            time.monotonic() - began,
        )


def _own(state: PrivateState) -> PrivateState:
    """Return a client's own parts out of its state: no moments, nothing of the way there."""
    return {name: tensor for name, tensor in state.items() if "." not in name}


def _after(epoch: int) -> str:
    """Return the name under which a new client keeps its embedding after an epoch."""
    return f"{CLIENT_EMB}.{epoch}"


def _remember(
    state: PrivateState, epoch: int, model: FlatModel, emb: Tensor | None
) -> dict[str, float]:
    """Keep a new client's embedding after an epoch; what it is worth is looked at later."""
    assert emb is not None
    state[_after(epoch)] = emb.detach().cpu().clone()
    return {}


class _Observer:
    """Looks at a new client between its epochs and keeps what it saw first (before adaptation)."""

    def __init__(
        self,
        worker: ClientWorker,
        client_id: int,
        reference: FlatModel | None,
        pooled_features: Tensor,
    ) -> None:
        self.worker, self.client_id = worker, client_id
        self.reference, self.pooled_features = reference, pooled_features
        self.first: Drawn
        self.last: Seen
        self.last_epoch = -1
        self.heldout: dict[int, Tensor] = {}

    def __call__(self, epoch: int, model: FlatModel, emb: Tensor | None) -> dict[str, float]:
        """Return what `look` scores; remember it, and what was drawn before adaptation."""
        self.last, self.last_epoch = self.look(model, None if emb is None else emb.detach()), epoch
        drawn, _, scores, self.heldout[epoch] = self.last
        if epoch == 0:
            self.first = drawn
        return scores

    def look(self, model: FlatModel, emb: Tensor | None) -> Seen:
        """Return what the client draws, its images, their scores, and its held-out losses."""
        images = self.worker._images(self.client_id, model, emb, self.reference)
        drawn = self.worker._drawn(self.client_id, images)
        heldout = self.worker._heldout_each(self.client_id, emb)
        return drawn, images, self.worker._scores(drawn, heldout, self.pooled_features), heldout
