"""A client whose work goes wrong in every way there is, through real workers on real MNIST.

What becomes of it is compared with runs in which nothing went wrong, or the client crashed.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.clients.worker import ClientWorker
from pipeline.config.load import load_config
from pipeline.federation.driver import Driver
from pipeline.federation.messages import WorkerSetup
from pipeline.federation.pool import LocalClientPool
from pipeline.federation.receiving import Message
from pipeline.federation.rounds import RoundSettings
from pipeline.federation.setup import FederationSetup, prepare
from spire_core.errors import AggregationError, ClusterError
from spire_core.federated.compression import WITH_FEEDBACK
from spire_core.federated.messages import (
    Broadcast,
    ClientUpdate,
    Encoded,
    RoundPlan,
    UpdateFault,
)
from spire_core.federated.private_state import PrivateState
from spire_core.federated.server import ServerState
from spire_core.federated.update_checks import CheckedUpdate, check_update, fault_of
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import initial_weights

POISONED = 1  # of clients 0 and 1
RESIDUAL = f"{POISONED}.shared.residual"
Poison = Callable[[ClientUpdate], ClientUpdate]


def crash(update: ClientUpdate) -> ClientUpdate:
    raise OSError("the disk is gone")


def changed(**changes: Callable[[Any], Any]) -> Poison:
    return lambda u: replace(u, **{name: f(getattr(u, name)) for name, f in changes.items()})


def moments(**changes: Callable[[Any], Any]) -> Poison:
    """Poison the moments of an update, or of a compressed one."""
    spoilt = changed(**changes)
    return lambda u: replace(u, moments=spoilt(u.moments))  # type: ignore[arg-type]


POISONS: dict[str, tuple[Poison, str]] = {
    "NaN": (changed(weights=lambda w: w * np.float32(np.nan)), "NaN or infinity in weights"),
    "infinity": (changed(weights=lambda w: w + np.float32(np.inf)), "NaN or infinity in weights"),
    "size": (changed(weights=lambda w: w[:-1]), "weights of shape"),
    "shape": (changed(weights=lambda w: w[None]), "weights of shape"),
    "float64": (changed(weights=lambda w: w.astype(np.float64)), "weights as float64"),
    "complex": (changed(weights=lambda w: w + 1j), "weights as complex64"),
    "integers": (changed(weights=lambda w: w.astype(np.int32)), "weights as int32"),
    "objects": (changed(weights=lambda w: w.astype(object)), "weights as object"),
    "a list": (changed(weights=lambda w: w.tolist()), "weights as list"),
    "no examples": (changed(num_examples=lambda n: 0), "0 examples"),
    "NaN examples": (changed(num_examples=lambda n: float("nan")), "nan examples"),
    "more examples": (changed(num_examples=lambda n: n + 1), r"\d+ examples instead of \d+"),
    "1e308 examples": (changed(num_examples=lambda n: 1e308), "1e.308 examples"),
    "examples without end": (changed(num_examples=lambda n: 10**400), r"examples beyond 2\^29"),
    "a word for examples": (changed(num_examples=lambda n: "many"), "examples as str"),
    "a loss without end": (changed(loss=lambda x: 10**400), "a loss as int"),
    "a loss of NaN": (changed(loss=lambda x: float("nan")), "a loss of nan"),
    "an array missing": (moments(exp_avg=lambda m: None), "exp_avg as NoneType"),
    "no moments": (changed(moments=lambda m: None), "no moments"),
    "NaN moments": (moments(exp_avg=lambda m: m * np.float32(np.nan)), "infinity in exp_avg"),
    "negative moments": (moments(exp_avg_sq=lambda v: -v - 1), "negative exp_avg_sq"),
    "one step count": (moments(steps=lambda s: s[:1]), r"steps of shape \(1,\)"),
    "negative steps": (moments(steps=lambda s: -s), "negative steps"),
    "too far": (changed(weights=lambda w: w + 1), "norm .*, above 50,"),
}


class PoisonedWorker(ClientWorker):
    """A real worker; in round r one client falls to `poisons[r]`, in its first `times` tries."""

    poisons: Sequence[Poison] = ()
    times = 99
    tries = 0
    breaks_memory = False

    def train(
        self, client_ids: Sequence[int], broadcast: Broadcast, plan: RoundPlan
    ) -> list[Message]:
        updates: Any = super().train(client_ids, broadcast, plan)
        if POISONED not in client_ids or plan.round_idx >= len(self.poisons):
            return updates
        self.tries = self.tries + 1
        if self.tries > self.times:
            self.tries = 0
            return updates
        poison = self.poisons[plan.round_idx]
        return [poison(u) if u.client_id == POISONED else u for u in updates]

    def private_state(self, client_id: int, num_rounds_done: int | None = None) -> PrivateState:
        state = super().private_state(client_id, num_rounds_done)
        if self.breaks_memory and client_id == POISONED and num_rounds_done == 1:
            nan = torch.full_like(state.parts[CLIENT_EMB], torch.nan)
            return replace(state, parts={**state.parts, CLIENT_EMB: nan})
        return state


@pytest.fixture(scope="module")
def setting(mnist_root: Path) -> FederationSetup:
    overrides = ["federation.num_clients=2", "federation.cohort_size=2", "federation.tau=1"]
    small = ["model.width=8", "model.d_emb=4", "client.batch_size=4", "client.warmup_rounds=0"]
    small += ["model.multipliers=[1]", "model.attention=[]"]
    # A crash splits a group, and clients that are computed alone differ in their last bits.
    small += ["client.engine=loop"]
    return prepare(load_config("smoke", [f"data.root={mnist_root}", *overrides, *small]))


def driver_for(
    setting: FederationSetup,
    folder: Path,
    policy: str,
    poisons: Sequence[Poison] = (),
    **worker: Any,
) -> Driver:
    config = setting.config
    limits = {"on_client_error": policy, "max_update_norm": 50.0}
    config = replace(
        config,
        federation=replace(config.federation, **limits),
        client=replace(config.client, **worker.pop("client", {})),
    )
    folder.mkdir(exist_ok=True)
    parts = (setting.mixtures, setting.partition, setting.extractor, folder)
    poisoned = PoisonedWorker(WorkerSetup(config, *parts), setting.images)
    poisoned.poisons = poisons
    for name, value in worker.items():
        setattr(poisoned, name, value)
    weights = initial_weights(config.model, config.method, 1, config.seed).numpy()
    rounds = RoundSettings.of(config, setting.partition.train_sizes, setting.model.layout)
    return Driver(LocalClientPool(poisoned), ServerState.initial(weights), rounds)


def state_after(driver: Driver, num_rounds: int) -> dict[str, np.ndarray]:
    """All numbers that a run leaves behind: the server's, and what the clients keep."""
    for _ in range(num_rounds):
        driver.run_round()
    state, pool = driver.state, driver.pool
    assert isinstance(pool, LocalClientPool)
    assert state.moments is not None
    found = {"weights": state.weights, "ema": state.ema, **vars(state.moments)}
    for client_id in range(2):
        kept = pool.worker.private_state(client_id).to_tensors()
        found |= {f"{client_id}.{name}": tensor.numpy() for name, tensor in kept.items()}
    return found


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, numbers in expected.items():
        np.testing.assert_array_equal(found[name], numbers, err_msg=name)
        assert np.isfinite(numbers).all()


def test_a_dropped_round_never_happened_for_the_client(
    setting: FederationSetup, tmp_path: Path
) -> None:
    """Whatever was wrong with an update, server and clients end as if its client had crashed."""
    poisons = [poison for poison, _ in POISONS.values()]
    num_rounds = len(poisons) + 1  # in the last one it is well again
    driver = driver_for(setting, tmp_path / "poisoned", "drop", poisons)
    found = state_after(driver, num_rounds)
    _, stats = driver.last()
    assert stats is not None
    assert stats.num_dropped == 0
    crashed = driver_for(setting, tmp_path / "crashed", "drop", [crash] * len(poisons))
    assert_same(found, state_after(crashed, num_rounds))
    assert float(found[f"{POISONED}.{CLIENT_EMB}.step"]) == 1  # it has learnt in the last alone


def test_what_is_done_again_is_as_if_nothing_had_happened(
    setting: FederationSetup, tmp_path: Path
) -> None:
    poisons = [crash, *(POISONS[name][0] for name in ("NaN", "negative moments"))]
    again = driver_for(setting, tmp_path / "again", "retry", poisons, times=2)
    plain = driver_for(setting, tmp_path / "plain", "retry")
    assert_same(state_after(again, 3), state_after(plain, 3))


@pytest.mark.parametrize("policy", ["retry", "fail"])
def test_what_stays_wrong_ends_the_run_in_one_sentence(
    policy: str, setting: FederationSetup, tmp_path: Path
) -> None:
    """It names client, round and cause, and leaves the server's state alone."""
    driver = driver_for(setting, tmp_path, policy, [crash])
    worker: Any = driver.pool.worker  # type: ignore[attr-defined]
    with pytest.raises(ClusterError, match=f"client {POISONED} in round 0, got OSError"):
        driver.run_round()
    assert worker.tries == (3 if policy == "retry" else 1)
    worker.poisons, worker.tries = [POISONS["NaN"][0]], 0
    with pytest.raises(AggregationError, match=f"in weights from client {POISONED} in round 0"):
        driver.run_round()
    assert worker.tries == (3 if policy == "retry" else 1)
    assert driver.state.round_idx == 0


def test_every_fault_is_told_in_words(setting: FederationSetup, tmp_path: Path) -> None:
    driver = driver_for(setting, tmp_path, "fail")
    worker: Any = driver.pool.worker  # type: ignore[attr-defined]
    before, plan = driver.state, RoundPlan(0, 1.0, shares_local=True, tau=1)
    (update,) = worker.train([POISONED], before.broadcast, plan)
    told = (before.weights, True, 50.0, update.num_examples)
    assert check_update(update, *told) == CheckedUpdate(update)
    norm = float(np.linalg.norm(update.weights.astype(np.float64) - before.weights))
    assert check_update(update, before.weights, True, norm * 1.001) == CheckedUpdate(update)
    too_far = check_update(update, before.weights, True, norm * 0.999)
    assert f"a change of norm {norm:.3g}, above" in str(too_far)
    for poison, words in POISONS.values():
        assert re.search(words, str(check_update(poison(update), *told)))
    assert fault_of(update, before.weights, has_moments=False) == UpdateFault("unasked moments")


@pytest.mark.parametrize("engine", ["loop", "grouped"])
def test_a_client_that_breaks_spoils_neither_its_group_nor_itself(
    engine: str, setting: FederationSetup, tmp_path: Path
) -> None:
    """What it remembers turns to NaN in round 1, and with it all that it computes in that round."""
    client = {"engine": engine, "group_size": 2}
    broken = driver_for(setting, tmp_path / "a", "drop", client=client, breaks_memory=True)
    refused = driver_for(
        setting, tmp_path / "b", "drop", [lambda u: u, POISONS["size"][0]], client=client
    )
    assert_same(state_after(broken, 3), state_after(refused, 3))


def of_arrays(spoil: Callable[[np.ndarray], np.ndarray]) -> Callable[[Encoded], Encoded]:
    return lambda e: replace(e, arrays=(spoil(e.arrays[0]), *e.arrays[1:]))


@pytest.mark.parametrize("form", ["bf16", "int8", "top_k"])
def test_a_compressed_update_that_is_refused_leaves_what_its_client_owed(
    form: str, setting: FederationSetup, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its residual, too, is what it was before the round; bytes are counted as they travelled."""
    client = {"compression": form, "top_k_fraction": 0.01}
    poisons = [
        lambda u: u,
        changed(change=of_arrays(lambda values: values[:-1])),
        moments(exp_avg=of_arrays(lambda values: values | np.int16(0x7F80))),  # NaN, infinity
        moments(exp_avg=lambda m: None),
        moments(steps=lambda s: s.tolist()),
        changed(moments=lambda m: None),
        changed(num_examples=lambda n: 0),
    ]
    driver = driver_for(setting, tmp_path / "poisoned", "drop", poisons, client=client)
    found = state_after(driver, len(poisons) + 1)
    crashes = [poisons[0], *[crash] * (len(poisons) - 1)]
    crashed = driver_for(setting, tmp_path / "crashed", "drop", crashes, client=client)
    assert_same(found, state_after(crashed, len(poisons) + 1))
    assert (RESIDUAL in found) == (form in WITH_FEEDBACK)
    for words in ("change as", "infinity in exp_avg", "no moments", "0 examples"):
        assert words in caplog.text
    for words in ("exp_avg as NoneType instead of arrays", "steps as list instead of an array"):
        assert words in caplog.text

    stats, size = driver.last()[1], found["weights"].size
    assert stats is not None
    each = {"bf16": 2 * size, "int8": size + 4 * -(-size // 256), "top_k": 8 * round(size / 100)}
    assert stats.up_bytes == 2 * (each[form] + 2 * 2 * size + 4 * 4)


def test_a_round_that_is_done_again_sends_what_was_owed_once(
    setting: FederationSetup, tmp_path: Path
) -> None:
    client, spoilt = {"compression": "top_k"}, of_arrays(lambda values: values[:-1])
    poisons = [lambda u: u, crash, changed(change=spoilt)]
    again = driver_for(setting, tmp_path / "again", "retry", poisons, times=2, client=client)
    plain = driver_for(setting, tmp_path / "plain", "retry", client=client)
    found = state_after(again, 4)
    assert_same(found, state_after(plain, 4))
    assert np.abs(found[RESIDUAL]).max() > 0


def test_numbers_that_turn_to_nan_are_refused_however_they_travel(
    setting: FederationSetup, tmp_path: Path
) -> None:
    for form in ("int8", "top_k"):
        client = {"compression": form}
        broken = driver_for(setting, tmp_path / form, "drop", client=client, breaks_memory=True)
        refused = driver_for(
            setting, tmp_path / f"{form} b", "drop", [lambda u: u, crash], client=client
        )
        assert_same(state_after(broken, 3), state_after(refused, 3))
