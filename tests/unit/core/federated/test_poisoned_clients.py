"""A client whose work goes wrong in every way there is, through real workers on real MNIST.

What becomes of it is compared with runs in which nothing went wrong.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
from spire_core.federated.server import ServerState
from spire_core.federated.update_checks import CheckedUpdate, check_update, fault_of
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
}


class PoisonedWorker(ClientWorker):
    """A real worker; in round r one client falls to `poisons[r]`, in its first `times` tries."""

    poisons: Sequence[Poison] = ()
    times = 99
    round_idx, tries = -1, 0

    def train(
        self, client_ids: Sequence[int], broadcast: Broadcast, plan: RoundPlan
    ) -> list[Message]:
        updates: Any = super().train(client_ids, broadcast, plan)
        if POISONED not in client_ids or plan.round_idx >= len(self.poisons):
            return updates
        if plan.round_idx != self.round_idx:
            self.round_idx, self.tries = plan.round_idx, 0
        self.tries += 1
        if self.tries > self.times:
            return updates
        poison = self.poisons[plan.round_idx]
        return [poison(u) if u.client_id == POISONED else u for u in updates]


@pytest.fixture(scope="module")
def setting(mnist_root: Path) -> FederationSetup:
    overrides = ["federation.num_clients=2", "federation.cohort_size=2", "federation.tau=1"]
    small = ["model.width=8", "model.d_emb=4", "client.batch_size=4", "client.warmup_rounds=0"]
    small += ["model.multipliers=[1]", "model.attention=[]"]
    small += ["client.engine=loop"]  # a task that fails names all clients of its group
    return prepare(load_config("smoke", [f"data.root={mnist_root}", *overrides, *small]))


def driver_for(
    setting: FederationSetup,
    folder: Path,
    poisons: Sequence[Poison] = (),
    **worker: Any,
) -> Driver:
    config = setting.config
    config = replace(config, client=replace(config.client, **worker.pop("client", {})))
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


def test_what_is_done_again_is_as_if_nothing_had_happened(
    setting: FederationSetup, tmp_path: Path
) -> None:
    poisons = [crash, *(POISONS[name][0] for name in ("NaN", "negative moments"))]
    again = driver_for(setting, tmp_path / "again", poisons, times=2)
    plain = driver_for(setting, tmp_path / "plain")
    assert_same(state_after(again, 3), state_after(plain, 3))


def test_what_stays_wrong_ends_the_run_in_one_sentence(
    setting: FederationSetup, tmp_path: Path
) -> None:
    """It names client, round and cause, and leaves the server's state alone."""
    driver = driver_for(setting, tmp_path, [crash])
    worker: Any = driver.pool.worker  # type: ignore[attr-defined]
    with pytest.raises(ClusterError, match=f"client {POISONED} in round 0, got OSError"):
        driver.run_round()
    assert worker.tries == 3
    worker.poisons, worker.tries = [POISONS["NaN"][0]], 0
    with pytest.raises(AggregationError, match=f"in weights from client {POISONED} in round 0"):
        driver.run_round()
    assert worker.tries == 3
    assert driver.state.round_idx == 0


def test_every_fault_is_told_in_words(setting: FederationSetup, tmp_path: Path) -> None:
    driver = driver_for(setting, tmp_path)
    worker: Any = driver.pool.worker  # type: ignore[attr-defined]
    before, plan = driver.state, RoundPlan(0, 1.0, shares_local=True, tau=1)
    (update,) = worker.train([POISONED], before.broadcast, plan)
    told = (before.weights, True, update.num_examples)
    assert check_update(update, *told) == CheckedUpdate(update)
    for poison, words in POISONS.values():
        assert re.search(words, str(check_update(poison(update), *told)))
    assert fault_of(update, before.weights, has_moments=False) == UpdateFault("unasked moments")


def of_arrays(spoil: Callable[[np.ndarray], np.ndarray]) -> Callable[[Encoded], Encoded]:
    return lambda e: replace(e, arrays=(spoil(e.arrays[0]), *e.arrays[1:]))


@pytest.mark.parametrize("form", ["bf16", "int8", "top_k"])
def test_a_compressed_update_that_is_done_again_is_what_it_would_have_been(
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
    driver = driver_for(setting, tmp_path / "poisoned", poisons, times=1, client=client)
    found = state_after(driver, len(poisons))
    plain = driver_for(setting, tmp_path / "plain", client=client)
    assert_same(found, state_after(plain, len(poisons)))
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
    again = driver_for(setting, tmp_path / "again", poisons, times=2, client=client)
    plain = driver_for(setting, tmp_path / "plain", client=client)
    found = state_after(again, 4)
    assert_same(found, state_after(plain, 4))
    assert np.abs(found[RESIDUAL]).max() > 0
