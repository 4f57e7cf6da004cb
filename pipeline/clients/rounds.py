"""A client's side of a round: clients train alone or as a group, and keep their private states."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch.profiler import profile, record_function

from pipeline.clients.base import WorkerBase
from pipeline.clients.profiler import save_profile, start_profile
from spire_core.federated.client import train_client
from spire_core.federated.client_group import train_group
from spire_core.federated.compression import compress
from spire_core.federated.messages import Broadcast, ClientUpdate, CompressedUpdate, RoundPlan
from spire_core.federated.private_state import PrivateState
from spire_core.network.grouped_layers import FlatGroup


class RoundTasks(WorkerBase):
    """Tasks of pre-training rounds; `torch.profiler` may watch them."""

    _profile: profile | None = None

    @functools.cached_property
    def group(self) -> FlatGroup:
        """The networks of the clients that are computed together, made on first use."""
        config = self.config
        return FlatGroup(
            config.model,
            config.method,
            self.images.shape[1],
            config.client.largest_group(config.federation.cohort_size),
            self.device,
        )

    def fit_group(
        self, client_ids: Sequence[int], broadcast: Broadcast, plan: RoundPlan
    ) -> list[ClientUpdate | CompressedUpdate]:
        """Train clients together and return the messages of their updates.

        The new private states stay here.
        """
        done, sent = plan.round_idx + 1, []
        before = [self.private_state(client_id, plan.round_idx) for client_id in client_ids]
        with record_function(f"round {done}, clients {', '.join(map(str, client_ids))}"):
            finished = self._trained(client_ids, before, broadcast, plan)
        for own, (update, trained) in zip(before, finished, strict=True):
            message, residual = compress(update, broadcast, own.residual, self.config.client)
            state = replace(trained, residual=residual)
            if not state.is_empty:
                self.store.save(update.client_id, done, state, plan.kept_rounds)
            sent.append(message)
        return sent

    def rehearse(self) -> None:
        """Take one optimizer step as in a round without keeping it, so that memory can be measured.

        A compiled network takes three steps: the second records CUDA graphs, the third replays
        them.
        """
        client = self.config.resolved_client
        group = client.groups(range(self.config.federation.cohort_size))[0]
        nobody = Broadcast(self.model.weights.cpu().numpy().copy())
        states = [self.private_state(client_id, 0) for client_id in group]
        tau = 3 if client.compile else 1
        self._trained(group, states, nobody, RoundPlan(0, lr_scale=0.0, shares_local=True, tau=tau))

    def _trained(
        self,
        client_ids: Sequence[int],
        states: Sequence[PrivateState],
        broadcast: Broadcast,
        plan: RoundPlan,
    ) -> list[tuple[ClientUpdate, PrivateState]]:
        config = self.config.client
        clients = [self.training_context(client_id) for client_id in client_ids]
        if len(clients) == 1:
            objective = self.objective(config.emb_dropout, config.batch_size)
            settings = (config, objective, plan)
            return [train_client(self.model, broadcast, clients[0], states[0], *settings)]
        settings = (config, self.objective(config.emb_dropout), plan)
        return train_group(self.group, broadcast, clients, states, *settings)

    def start_profile(self) -> None:
        """Start torch's profiler on this worker."""
        self._profile = start_profile(self.device)

    def save_profile(self, folder: Path, name: str) -> bool:
        """Write the trace since `start_profile`; return False if this worker started later."""
        if self._profile is None:
            return False
        save_profile(self._profile, self.device, folder, name)
        self._profile = None
        return True

    def stop_profile(self) -> None:
        """Stop the profiler and discard its trace."""
        if self._profile is not None:
            self._profile.stop()
            self._profile = None

    def undo_round(self, client_id: int, round_idx: int) -> None:
        """Discard a client's private state after a round whose update was not used."""
        self.store.rewind(round_idx, client_id)
