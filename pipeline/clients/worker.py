"""The clients' side of a run: rounds, evaluations of pre-training clients, and new clients.

A new client fits its own parts to a backbone, is looked at, and is reported on
(`messages.report_of`). A single client is looked at between its epochs, and afterwards with the
parts that it keeps. Where clients train their embeddings in one batch, these are kept after each
epoch of interest, and all looks come afterwards. P: length of the weight vector, n: images,
D: features, D_emb: numbers of an embedding.
"""

import functools
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from pipeline.clients.client_data import ClientData
from pipeline.clients.evaluation import ClientEvaluator, control_images
from pipeline.clients.rounds import RoundWorker
from pipeline.federation.messages import (
    NEAREST_DRAWS,
    ControlPlan,
    ControlScores,
    FitPlan,
    FittedClient,
    GeneratedSamples,
    HeldoutLosses,
    Look,
)
from pipeline.runs.layout import PROFILE_TABLE, TRACE_SUFFIX
from pipeline.runs.model_files import save_client
from spire_core.adaptation.adapt import adapt_client, adapt_embeddings, num_trained
from spire_core.adaptation.adapt_privately import (
    NOBODY,
    Protection,
    adapt_privately,
    generated_client,
    public_clip_norm,
)
from spire_core.adaptation.set_aside import set_aside_split
from spire_core.evaluation.kid import kernel_distance
from spire_core.federated.private_state import PrivateState, load_client
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import initial_weights, tensors_hash
from spire_core.privacy.guarantee import guarantee_of
from spire_core.rng import torch_generator
from spire_core.training.fit import to_float
from spire_core.training.several import is_table, table_of

CHOICE = "guidance"  # the purpose of drawings that choose: no score sees their noise
APART = 0.01  # deviation of several embeddings that start a private fit from zero
NUM_OPERATORS = 25  # in a table of the slowest


class ClientWorker(RoundWorker):
    """Simulates clients on one device with one thread: all that they do in a run."""

    @functools.cached_property
    def evaluator(self) -> ClientEvaluator:
        """What draws as a client and scores it."""
        return ClientEvaluator(self, self.cache)

    running: profile | None = None  # torch's profiler of this process

    def _loaded(self, client_id: int, weights: np.ndarray) -> Tensor | None:
        """Load a client's model on the backbone (P,); return its embedding (D_emb,)."""
        state, backbone = self.private_state(client_id), self.on_device(weights)
        return load_client(self.model, backbone, state)

    # --- evaluations of pre-training clients, whether they have trained or not ---

    def real_features(self, client_id: int) -> Tensor:
        """Return features (n, D) of a client's held-out images."""
        return self.evaluator.features(self.client_data(client_id).test_images())

    def reference_features(self, client_id: int) -> Tensor:
        """Return features (n, D) of the real images that a client's samples are scored against."""
        return self.evaluator.reference_features(self.client_data(client_id))

    def draw(self, client_ids: Sequence[int], weights: np.ndarray) -> list[GeneratedSamples]:
        """Return samples generated as pre-training clients with these backbone weights (P,)."""
        self.forget_sum()  # the last round's sum is collected; its memory is needed now
        clients = [self.client_data(client_id) for client_id in client_ids]
        states = [self.private_state(client_id) for client_id in client_ids]
        drawn = self.evaluator.draw(clients, states, self.on_device(weights))
        pairs = zip(clients, drawn, strict=True)
        return [self.evaluator.samples(client, images) for client, images in pairs]

    def losses(self, client_id: int, weights: np.ndarray, swap_with: int) -> HeldoutLosses:
        """Return a client's held-out losses with its own, zero and another client's embedding.

        `swap_with`: that client. One that is lent its own, because it alone is evaluated, has no
        loss with another's.
        """
        client, emb = self.client_data(client_id), self._loaded(client_id, weights)
        loss = functools.partial(self.evaluator.heldout_mean, client)
        if emb is None:
            return HeldoutLosses(client_id, loss(None), None, None)
        nobody = torch.zeros(self.config.model.d_emb, device=self.device)
        own, zero, swapped = loss(emb), loss(nobody), None
        other = self.private_state(swap_with).client_emb
        if other is not None and swap_with != client_id:
            swapped = loss(other.to(self.device))
        return HeldoutLosses(client_id, own, zero, swapped)

    def losses_as(self, client_id: int, weights: np.ndarray, others: Sequence[int]) -> list[float]:
        """Return a client's held-out loss with each of these clients' own parts, at one noise."""
        client, loss = self.client_data(client_id), self.evaluator.heldout_mean
        return [loss(client, self._loaded(other, weights)) for other in others]

    def draw_tuned(
        self, client_id: int, weights: np.ndarray
    ) -> tuple[GeneratedSamples, HeldoutLosses]:
        """Return samples and held-out loss of a pre-training client that trains on alone.

        It trains what a new client would, in `adapt.tune_epochs` passes over all its images, from
        the backbone (P,) and its own parts. Nothing is kept of the tuning.
        """
        config = self.config.adapt
        settings = replace(config, epochs=config.tune_epochs, early_stopping=False, guidance=None)
        client, state = self.client_data(client_id), self.private_state(client_id)
        start, model, objective = self.on_device(weights), self.model, self.objective
        own = self.for_training(client)
        tuned = adapt_client(model, start, own, state, settings, objective, lambda *_: {}).state
        [images] = self.evaluator.draw([client], [tuned], start)
        loss = self.evaluator.heldout_mean(client, load_client(model, start, tuned))
        samples = self.evaluator.samples(client, images)
        return samples, HeldoutLosses(client_id, loss, None, None)

    # --- new clients: before the fit ---

    def start_state(self, client_id: int, mean_emb: Tensor | None = None) -> PrivateState:
        """Return a new client's first state, as `adapt.init` says."""
        config = self.config
        if not config.method.record.has_embedding:
            return PrivateState()
        if config.adapt.init == "random":
            return self.new_state(client_id)
        embs = torch.zeros(config.model.num_embs, config.model.d_emb)
        if config.privacy.adapt.is_on and len(embs) > 1:  # equal ones would stay equal
            own = torch_generator(config.seed, "private_start", client_id)
            embs += APART * torch.randn(embs.shape, generator=own)
        emb = mean_emb if config.adapt.init == "mean" else None
        return PrivateState({CLIENT_EMB: table_of(embs) if emb is None else emb})

    def start_weights(self, client_id: int, weights: np.ndarray) -> Tensor:
        """Return the backbone (P,), or without pre-training the client's own first weights."""
        config = self.config
        if config.has_backbone:
            return self.on_device(weights)
        channels, seed = self.image_shape[0], config.seed
        own = initial_weights(config.model, config.method, channels, seed, client_id)
        return own.to(self.device)

    def clip_norm(self, _: int, plan: FitPlan) -> float:
        """Return the clip norm of all private fits, whoever is asked.

        It is the given one or, without any client's image, that of images that the backbone
        generates.
        """
        config = self.config
        private, lr = config.privacy.adapt, config.private_lr
        if private.clip_norm is not None:
            return private.clip_norm
        assert lr is not None  # a method that trains nothing is refused with a budget
        model, objective = self.model, self.objective
        backbone = self.on_device(plan.weights)
        nobody = generated_client(model, backbone, objective, self.image_shape, config.seed)
        start = self.start_state(NOBODY, plan.mean_emb)
        return public_clip_norm(model, backbone, nobody, start, private, objective, lr)

    # --- fit ---

    def adapt(self, client_ids: Sequence[int], plan: FitPlan) -> list[FittedClient]:
        """Fit new clients, privately where the plan has a clip norm; keep their parts here.

        A single client is looked at between its epochs. Together, they keep their embeddings after
        each epoch to look at. `look` takes the looks that are asked for.
        """
        self.forget_sum()
        began, config = time.monotonic(), self.config
        settings, model, objective = config.adapt, self.model, self.objective
        if not config.has_backbone:
            settings = replace(settings, pull=0.0)  # there is nothing shared to be pulled to
        clients = [self.client_data(client_id) for client_id in client_ids]
        inputs = [self.for_training(client) for client in clients]
        starts = [self.start_state(client_id, plan.mean_emb) for client_id in client_ids]
        start, looks = self.start_weights(client_ids[0], plan.weights), list[Look]()
        snapshots: dict[int, dict[int, Tensor]] = {client_id: {} for client_id in client_ids}

        def observe(client: ClientData, epoch: int, state: PrivateState) -> dict[str, float]:
            if plan.is_together:
                snapshots[client.client_id][epoch] = state.parts[CLIENT_EMB]
            else:
                looks.extend(self._looks([client], [state], [epoch], plan, start))
            return {}  # a report has the scores

        watches = [functools.partial(observe, client) for client in clients]
        fit_began, protection = time.monotonic(), None
        if plan.clip_norm is not None:
            private, lr = config.privacy.adapt, config.private_lr
            assert lr is not None  # as above
            num_embs, every = config.num_client_embs, settings.eval_every
            protection = Protection(private, plan.clip_norm, self.noise, lr, every, num_embs)
            adapted = adapt_privately(model, start, inputs, starts, protection, objective, watches)
        elif plan.is_together:
            adapted = adapt_embeddings(model, start, inputs, starts, settings, objective, watches)
        else:
            [client], [own], [watch] = inputs, starts, watches
            adapted = [adapt_client(model, start, client, own, settings, objective, watch)]
        looks_s = sum(look.duration_s for look in looks)
        fit_s = (time.monotonic() - fit_began - looks_s) / len(clients)
        scales = self.choose_guidance(clients, [one.state for one in adapted], start)
        total_s = (time.monotonic() - began - looks_s) / len(clients)
        results = []
        for one, client, scale in zip(adapted, inputs, scales, strict=True):
            own = replace(one.state, guidance=scale, snapshots=snapshots[client.client_id])
            self.store.save(client.client_id, 0, own)
            fitted = FittedClient(
                client_id=client.client_id,
                curve=one.curve,
                kept_epoch=one.kept_epoch,
                num_trained=num_trained(model, config.model.emb_size),
                fit_duration_s=fit_s,
                duration_s=total_s,
                guarantee=protection and protection.guarantee(len(client.images)),
                guidance=scale,
                looks=tuple(looks),
            )
            results.append(fitted)
        return results

    def choose_guidance(
        self, clients: Sequence[ClientData], states: Sequence[PrivateState], start: Tensor
    ) -> list[float | None]:
        """Return for each fitted client the scale whose drawings are nearest to what it set aside.

        Nearest by KID's MMD, in the extractor's features. Drawings are for the captions of what was
        set aside. All None where the settings name no scales, or the method trains nothing.
        """
        evaluator, config = self.evaluator, self.config
        scales = config.adapt.guidance
        if scales is None or not config.method.record.adapt_parts:
            return [None] * len(clients)
        own = [replace(one, split=set_aside_split(one.split, config.seed)) for one in clients]
        reals, distances = [evaluator.features(client.test_images()) for client in own], []
        for scale in scales:
            scaled = [replace(state, guidance=scale) for state in states]
            drawn = evaluator.draw(own, scaled, start, CHOICE)
            fakes = [evaluator.extractor.features(images) for images in drawn]
            distances.append([kernel_distance(*pair) for pair in zip(reals, fakes, strict=True)])
        return [scales[at] for at in np.argmin(distances, axis=0)]

    # --- looks ---

    def look(
        self, client_ids: Sequence[int], plan: FitPlan, epochs: Sequence[int | None]
    ) -> list[Look]:
        """Return looks at fitted new clients, each as it was after an epoch, or as it is kept.

        `epochs` correspond to `client_ids`, which may repeat a client.
        """
        clients, states = [self.client_data(client_id) for client_id in client_ids], []
        for client_id, epoch in zip(client_ids, epochs, strict=True):
            kept = self.private_state(client_id)
            states.append(
                kept if epoch is None else PrivateState({CLIENT_EMB: kept.snapshots[epoch]})
            )
        return self._looks(clients, states, epochs, plan, self.on_device(plan.weights))

    def _looks(
        self,
        clients: Sequence[ClientData],
        states: Sequence[PrivateState],
        epochs: Sequence[int | None],
        plan: FitPlan,
        backbone: Tensor,
    ) -> list[Look]:
        """Return looks at clients in these states on the backbone (P,)."""
        began, evaluator, config, looks = time.monotonic(), self.evaluator, self.config, []
        drawn = evaluator.draw(clients, states, backbone)
        drawing_s = (time.monotonic() - began) / len(clients)
        for client, state, epoch, images in zip(clients, states, epochs, drawn, strict=True):
            began, is_kept, distances, near = time.monotonic(), epoch is None, None, None
            fitted, emb = client.as_fitted(config), load_client(self.model, backbone, state)
            samples, heldout = evaluator.samples(client, images), evaluator.heldout(client, emb)
            scores = evaluator.scores(client, images, samples, heldout, plan.pooled)
            if (is_kept or epoch == 0) and config.has_controls:
                scores |= evaluator.novel_scores(fitted, images, samples)
                if config.starts_trained:  # else a change tells how bad the start is
                    scores |= evaluator.bits(client, emb)
            if is_kept:
                distances = evaluator.distances(fitted, images)
                near = evaluator.near(fitted, images)
                if emb is not None and is_table(emb):
                    samples = replace(samples, of_each=evaluator.drawn_with_each(client, emb))
            look = Look(
                epoch=epoch,
                scores=scores,
                heldout=heldout,
                duration_s=drawing_s + time.monotonic() - began,
                drawn=samples if is_kept or epoch == 0 else None,  # others are not read
                distances=distances,
                neighbours=near,
            )
            looks.append(look)
        return looks

    def text_controls(self, client_id: int) -> dict[str, dict[str, float]]:
        """Return the text scores of what each control draws for a new client's prompts."""
        client, num_images = self.client_data(client_id), self.config.eval.num_images
        drawn = control_images(client, num_images, self.setup.partition)
        return {name: self.evaluator.text_scores(client, own) for name, own in drawn.items()}

    def image_controls(
        self, client_id: int, weights: np.ndarray, plan: ControlPlan
    ) -> dict[str, ControlScores]:
        """Return the scores of a new client's controls by name, which the plan has planned.

        One of them may be drawn by another client on the backbone (P,).
        """
        of_all, client = self.images, self.client_data(client_id)
        images = {k: to_float(torch.from_numpy(of_all[at])) for k, at in plan.positions.items()}
        if plan.drawn_as is not None:
            other, own = self.client_data(plan.drawn_as), self.private_state(plan.drawn_as)
            backbone = self.on_device(weights)
            [images[NEAREST_DRAWS]] = self.evaluator.draw([other], [own], backbone)
        return {name: self.evaluator.control_scores(client, own) for name, own in images.items()}

    # --- own parts of any client ---

    def export(self, client_id: int, folder: Path) -> str:
        """Write a client's own parts into a finished run's folder; return their SHA-256.

        The file of a new client's part says what is promised about its privacy.
        """
        state, config, guarantee = self.private_state(client_id), self.config, None
        if state.parts:
            if client_id >= config.federation.num_clients:
                num_images = len(self.setup.partition.split(client_id).train)
                settings, num_embs = config.privacy.adapt, config.num_client_embs
                is_simulated = config.privacy.noise_key is not None
                guarantee = guarantee_of(settings, num_images, is_simulated, num_embs)
            texts = {} if guarantee is None else guarantee.as_texts()
            is_told = not config.privacy.is_on  # who is in a private run is nobody's business
            name = self.setup.partition.name_of(client_id) if is_told else None
            save_client(folder, client_id, state.parts, texts, state.guidance, name)
        return tensors_hash(dict(state.parts))

    # --- profiles ---

    def start_profile(self) -> None:
        """Start torch's profiler on this process, and on its GPU."""
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # no lines of its own on stderr
        gpu = [ProfilerActivity.CUDA] if self.device.type == "cuda" else []
        self.running = profile(activities=[ProfilerActivity.CPU, *gpu], acc_events=True)
        self.running.start()

    def save_profile(self, folder: Path, name: str) -> bool:
        """Write the trace since `start_profile`; return False if this worker started later."""
        recorded = self.running
        if recorded is None:
            return False
        self.close()
        folder.mkdir(parents=True, exist_ok=True)
        recorded.export_chrome_trace(str(folder / f"{name}{TRACE_SUFFIX}"))
        order = f"self_{'cpu' if self.device.type == 'cpu' else 'device'}_time_total"
        averages = recorded.key_averages()
        table = averages.table(sort_by=order, row_limit=NUM_OPERATORS, max_name_column_width=60)
        (folder / PROFILE_TABLE).write_text(f"{name}, sorted by {order}\n{table}")
        return True

    def close(self) -> None:
        """Stop a profiler that still runs."""
        if self.running is not None:
            self.running.stop()
            self.running = None
