"""Sums that several workers hold become one round, whoever is lost on the way."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.clients.masking import MaskingClients
from pipeline.config.federation import FederationConfig
from pipeline.federation.driver import Driver
from pipeline.federation.pool import LocalClientPool
from pipeline.federation.receiving import UpdateReceiver
from pipeline.federation.rounds import RoundSettings
from pipeline.federation.work import ClientFailure, Work, run_here
from pipeline.runs import mask_key
from spire_core.config.client import ClientConfig
from spire_core.config.method import MethodConfig
from spire_core.config.privacy import PrivateRoundsConfig
from spire_core.config.server import ServerConfig
from spire_core.errors import AggregationError, BudgetError, ClusterError, DivergenceError
from spire_core.federated import accumulation
from spire_core.federated.accumulation import Part
from spire_core.federated.messages import (
    AdamMoments,
    Broadcast,
    ClientReport,
    ClientUpdate,
    IntegerMessage,
    RoundPlan,
)
from spire_core.federated.participation import (
    responding_clients,
    secret_cohort,
)
from spire_core.federated.private_updates import NOISE, ClippedFormat
from spire_core.federated.server import ServerState
from spire_core.methods import NETWORK_PARTS
from spire_core.privacy.noise import SecretNoise
from spire_core.privacy.rounds import rounds_guarantee
from spire_core.rng import numpy_generator
from spire_core.secure_sum.protocol import SumPlan

NUM_CLIENTS, SIZE, NUM_ROUNDS = 9, 5000, 3
NOISE_KEY = SecretNoise(bytes(range(2, 34)))
KEY_FOLDER = Path("/nowhere")  # the tests of secure sums put one with a key in its place


class Worker:
    """Its clients send random numbers of their own; moments vary over many magnitudes."""

    def __init__(self, settings: RoundSettings) -> None:
        self.receiver, self.asked = UpdateReceiver(settings), list[int]()
        self.masking = MaskingClients(KEY_FOLDER, settings)

    def fit_group(
        self, client_ids: tuple[int, ...], broadcast: Broadcast, plan: RoundPlan
    ) -> list[ClientReport]:
        self.asked += client_ids
        updates: Any = [update_of(c, broadcast, plan) for c in client_ids]
        if plan.sums_integers:
            updates = self.masking.messages(updates, broadcast, plan)
        return self.receiver.receive(client_ids, updates, broadcast, plan)

    def private_cohort(self, _: int, round_idx: int) -> list[int]:
        federation = self.receiver.settings.federation
        return secret_cohort(federation.num_clients, federation.cohort_size, NOISE_KEY, round_idx)

    def add_noise(self, unit: int, broadcast: Broadcast, plan: RoundPlan) -> list[ClientReport]:
        form = self.receiver.settings.update_format(plan, broadcast)
        assert isinstance(form, ClippedFormat)
        message = IntegerMessage(unit, 1, 0, form.noise(NOISE_KEY, plan.round_idx))
        return self.receiver.receive([unit], [message], broadcast, plan)

    def advertise_keys(self, client_id: int, sum_name: str) -> Any:
        return self.masking.public_keys(client_id, sum_name)

    def share_keys(self, client_id: int, plan: SumPlan) -> Any:
        return self.masking.shares(client_id, plan)

    def reveal_shares(self, client_id: int, *args: Any) -> Any:
        return self.masking.reveal(client_id, *args)

    def round_part(self, round_idx: int, start: int, stop: int) -> Part | None:
        return self.receiver.part(round_idx, start, stop)

    def forget_round(self) -> None:
        self.receiver.forget()


def update_of(client_id: int, broadcast: Broadcast, plan: RoundPlan) -> ClientUpdate:
    rng = numpy_generator(0, "update", client_id, plan.round_idx)
    moved, first = rng.standard_normal((2, SIZE)) * 10 ** rng.uniform(-9, -1, (2, SIZE))
    arrays = (first, first**2, rng.random(len(NETWORK_PARTS)))
    moments = AdamMoments(*(array.astype(np.float32) for array in arrays))
    weights = broadcast.weights + moved.astype(np.float32)
    return ClientUpdate(client_id, 10 + client_id, 1, 0.5, weights, moments)


class SplitPool(LocalClientPool):
    """Several workers in this process, which take the units in turns."""

    def __init__(self, settings: RoundSettings, num_workers: int) -> None:
        self.workers: list[Any] = [Worker(settings) for _ in range(num_workers)]
        super().__init__(self.workers[0])
        self.turn = 0

    @property
    def num_workers(self) -> int:
        return len(self.workers)

    def attempt(self, work: Work) -> list[Any]:
        results = []
        for position in range(len(work.units)):
            self.turn += 1
            worker = self.workers[self.turn % self.num_workers]
            results += run_here(worker, work.part([position]))
        return results

    def each(self, method: str, *args: Any) -> list[Any]:
        return [getattr(worker, method)(*args) for worker in self.workers]


def rounds_of() -> RoundSettings:
    federation = FederationConfig(
        num_clients=NUM_CLIENTS,
        cohort_size=NUM_CLIENTS,
        num_rounds=NUM_ROUNDS,
        tau=1,
    )
    client, server = ClientConfig(engine="grouped", group_size=2), ServerConfig(ema=0.5)
    parts = (federation, client, server, MethodConfig())
    sizes = [10 + c for c in range(NUM_CLIENTS)]
    return RoundSettings(*parts, seed=0, num_examples=sizes, shared_size=SIZE)


def driver_with(pool_class: type[SplitPool], num_workers: int) -> Driver:
    settings = rounds_of()
    state = ServerState.initial(np.zeros(SIZE, dtype=np.float32))
    return Driver(pool_class(settings, num_workers), state, settings)


def state_after(driver: Driver, num_rounds: int = NUM_ROUNDS) -> dict[str, np.ndarray]:
    for _ in range(num_rounds):
        driver.run_round()
    assert driver.state.moments is not None
    return {"weights": driver.state.weights, **vars(driver.state.moments)}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, numbers in expected.items():
        np.testing.assert_array_equal(found[name], numbers, err_msg=name)


def test_the_number_of_workers_and_of_stretches_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = state_after(driver_with(SplitPool, 1))
    for num_workers in (2, 3, 7, 11):
        assert_same(state_after(driver_with(SplitPool, num_workers)), expected)
    monkeypatch.setattr(accumulation, "STRETCH_BYTES", 1)  # the shortest: 1,024 numbers
    assert_same(state_after(driver_with(SplitPool, 3)), expected)


class LosesItsSum(SplitPool):
    """In round 1 the last worker is lost after its clients' work, before or amid the sums."""

    stretches_before = 0
    times = 1

    def each(self, method: str, *args: Any) -> list[Any]:
        results = super().each(method, *args)
        if method == "round_part" and args[0] == 1 and self.times:
            if self.stretches_before == 0:
                self.times -= 1
                self.workers[-1].forget_round()
                results[-1] = None
            else:
                self.stretches_before -= 1
        return results


@pytest.mark.parametrize("stretches_before", [0, 2])
def test_clients_of_a_lost_sum_are_computed_again(
    stretches_before: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(accumulation, "STRETCH_BYTES", 1)
    expected = state_after(driver_with(SplitPool, 1))
    driver = driver_with(LosesItsSum, 3)
    pool: Any = driver.pool
    pool.stretches_before = stretches_before
    assert_same(state_after(driver), expected)
    assert "updates in round 1 are lost: computed again" in caplog.text
    asked = sum(len(worker.asked) for worker in pool.workers)
    assert NUM_ROUNDS * NUM_CLIENTS < asked < (NUM_ROUNDS + 1) * NUM_CLIENTS


class NotesGroups(LosesItsSum):
    """Notes which clients compute together."""

    def __init__(self, settings: RoundSettings, num_workers: int) -> None:
        super().__init__(settings, num_workers)
        self.groups = list[tuple[int, ...]]()

    def attempt(self, work: Work) -> list[Any]:
        if work.task == "fit_group" and work.args[1].round_idx == 1:
            self.groups += work.units
        return super().attempt(work)


def test_clients_of_a_lost_sum_compute_in_the_groups_in_which_they_did() -> None:
    """Fewer clients would be cut into smaller groups, and last bits depend on the group."""
    settings = rounds_of()
    federation = replace(settings.federation, num_clients=160, cohort_size=160)
    settings = replace(
        settings,
        federation=federation,
        client=replace(settings.client, group_size=None),
        num_examples=[10 + c for c in range(160)],
    )
    pool = NotesGroups(settings, 2)
    driver = Driver(pool, ServerState.initial(np.zeros(SIZE, dtype=np.float32)), settings)
    state_after(driver, num_rounds=2)
    first, again = pool.groups[:20], pool.groups[20:]
    assert {len(group) for group in first} == {8}
    assert len(again) == 10
    assert set(again) <= set(first)


def test_sums_that_are_lost_again_and_again_are_one_sentence() -> None:
    driver = driver_with(LosesItsSum, 1)
    pool: Any = driver.pool
    pool.times, pool.last_loss = 99, ("a full disk", "free it")
    driver.run_round()
    with pytest.raises(
        ClusterError,
        match=r"in round 1 to be kept .* lost 3 times, at last by a full disk: free it; spire",
    ):
        driver.run_round()
    assert driver.state.round_idx == 1
    assert len(pool.workers[0].asked) == (1 + 3) * NUM_CLIENTS  # no training follows the last loss


class LosesAnAnswer(SplitPool):
    """In round 1 the answer of client 4's group is lost, whose updates are in a sum already."""

    times = 1

    def attempt(self, work: Work) -> list[Any]:
        results = super().attempt(work)
        for i, unit in enumerate(work.units):
            is_meant = work.task == "fit_group" and not isinstance(unit, int) and 4 in unit
            if is_meant and work.args[1].round_idx == 1 and self.times:
                self.times -= 1
                results[i] = ClientFailure(unit, "its answer was lost")
        return results


def test_a_client_whose_answer_was_lost_counts_once() -> None:
    """It is computed again by another worker, while the first one still holds its update."""
    expected = state_after(driver_with(SplitPool, 1))
    assert_same(state_after(driver_with(LosesAnAnswer, 2)), expected)


# --- secure sums ---


@pytest.fixture
def _masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(globals(), "KEY_FOLDER", tmp_path)
    with mask_key.mask_key(tmp_path, True):
        yield


def secure_driver(pool_class: type[SplitPool], num_workers: int, **scenario: Any) -> Driver:
    settings = rounds_of()
    federation = replace(settings.federation, secure_aggregation=True, **scenario)
    settings = replace(settings, federation=federation)
    state = ServerState.initial(np.zeros(SIZE, dtype=np.float32))
    return Driver(pool_class(settings, num_workers), state, settings)


@pytest.mark.usefixtures("_masks")
def test_a_secure_sum_is_the_sum_of_the_same_integers_without_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, for any number of workers and stretches, and whatever the key is."""
    expected = state_after(secure_driver(SplitPool, 1))
    (tmp_path / "mask.key").write_bytes(bytes(range(32)))
    for num_workers, stretch_bytes in ((2, 1 << 26), (5, 1), (11, 1)):
        monkeypatch.setattr(accumulation, "STRETCH_BYTES", stretch_bytes)
        assert_same(state_after(secure_driver(SplitPool, num_workers)), expected)
    monkeypatch.setattr("pipeline.clients.masking.masked", lambda numbers, *_: numbers)
    monkeypatch.setattr("pipeline.federation.secure_sums.unmasked", lambda total, *_: total)
    assert_same(state_after(secure_driver(SplitPool, 3)), expected)


@pytest.mark.usefixtures("_masks")
def test_a_secure_mean_is_the_exact_one_but_for_the_grid() -> None:
    found, expected = secure_driver(SplitPool, 2), driver_with(SplitPool, 2)
    found.run_round()
    expected.run_round()
    np.testing.assert_allclose(found.state.weights, expected.state.weights, rtol=0, atol=1e-13)
    ours, theirs = found.state.moments, expected.state.moments
    assert ours is not None
    assert theirs is not None
    assert (ours.exp_avg_sq >= theirs.exp_avg_sq).all()  # rounded up: Adam's steps stay bounded
    assert (np.abs(ours.exp_avg) <= np.abs(theirs.exp_avg)).all()
    np.testing.assert_allclose(ours.steps, theirs.steps, rtol=1e-5)
    assert [d.last()[1].loss for d in (found, expected)] == pytest.approx([0.5, 0.5])


@pytest.mark.usefixtures("_masks")
@pytest.mark.parametrize("is_private", [False, True])
def test_an_actor_that_sums_sees_no_update_and_no_loss(is_private: bool) -> None:
    driver = secure_driver(SplitPool, NUM_CLIENTS)
    if is_private:
        driver = private_driver(SplitPool, NUM_CLIENTS, cohort_size=9, secure_aggregation=True)
    pool: Any = driver.pool
    seen = list[Any]()
    for worker in pool.workers:
        accept = worker.receiver.receive
        worker.receiver.receive = lambda group, sent, *args, accept=accept: (
            seen.extend(sent) or accept(group, sent, *args)
        )
    driver.run_round()
    seen = [message for message in seen if message.client_id != NOISE]
    assert len(seen) == NUM_CLIENTS
    for message in seen:
        assert message.loss is None
        counts = np.histogram(message.numbers / 2.0**64, bins=20, range=(0, 1))[0]
        expected = message.numbers.size / 20
        assert ((counts - expected) ** 2 / expected).sum() < 60  # 19 degrees of freedom: 4e-6
    pairs = itertools.combinations(seen, 2)
    assert not any((a.numbers == b.numbers).any() for a, b in pairs)


@pytest.mark.usefixtures("_masks")
@pytest.mark.parametrize("stretches_before", [0, 2])
def test_clients_of_a_lost_secure_sum_are_computed_again(
    stretches_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accumulation, "STRETCH_BYTES", 1)
    expected = state_after(secure_driver(SplitPool, 1))
    driver = secure_driver(LosesItsSum, 3)
    pool: Any = driver.pool
    pool.stretches_before = stretches_before
    assert_same(state_after(driver), expected)


class FallsSilent(SplitPool):
    """Some clients send their updates, and reveal no shares afterwards."""

    silent = (0, 4)

    def attempt(self, work: Work) -> list[Any]:
        results = super().attempt(work)
        if work.task != "reveal_shares":
            return results
        pairs = zip(work.units, results, strict=True)
        return [ClientFailure(u, "it is silent") if u in self.silent else r for u, r in pairs]


@pytest.mark.usefixtures("_masks")
def test_clients_that_fall_silent_after_their_update_are_in_the_sum() -> None:
    expected = state_after(secure_driver(SplitPool, 1))
    driver = secure_driver(FallsSilent, 2)
    assert_same(state_after(driver), expected)
    pool: Any = driver.pool
    pool.silent = (0, 2, 4)
    with pytest.raises(AggregationError, match=r"^expected at least 7 of 9 clients.*, got 6: "):
        driver.run_round()


@pytest.mark.usefixtures("_masks")
def test_clients_that_drop_out_before_their_update_take_their_masks_along() -> None:
    """They have shared keys, and the masks of the others with them are taken off."""
    driver, dropped = secure_driver(SplitPool, 2, drop_rate=0.15), 0
    settings = rounds_of()
    federation = replace(settings.federation, drop_rate=0.15)
    settings = replace(settings, federation=federation)
    plain = Driver(SplitPool(settings, 1), ServerState.initial(np.zeros(SIZE, "f4")), settings)
    for _ in range(6):
        for one in (driver, plain):
            one.run_round()
        stats, expected = driver.last()[1], plain.last()[1]
        assert stats is not None
        assert expected is not None
        assert stats.num_dropped == expected.num_dropped
        dropped += stats.num_dropped
        assert np.abs(plain.state.weights).max() > 1e-3
        np.testing.assert_allclose(driver.state.weights, plain.state.weights, rtol=0, atol=1e-6)
    assert dropped > 0
    many = secure_driver(SplitPool, 2, drop_rate=0.6)
    with pytest.raises(AggregationError, match=r"^expected at least 7 of 9 clients.* round 0 "):
        many.run_round()


@pytest.mark.usefixtures("_masks")
def test_a_number_that_a_secure_sum_cannot_hold_is_one_sentence_without_it() -> None:
    """The limit follows from what was handed out, and the number would tell of the client."""
    driver = secure_driver(SplitPool, 2)
    state = replace(driver.state, weights=np.full(SIZE, 1e-9, dtype=np.float32))
    driver._last = (state, None)
    sentence = r"got weights beyond the sum's limit of [0-9.e-]+ from client \d in round 0: lower"
    with pytest.raises(DivergenceError, match=sentence):
        driver.run_round()


# --- rounds with differential privacy ---

PRIVATE_ROUNDS = 6
SMALL_COHORTS = SecretNoise(bytes(range(25, 57)))  # also of one client, and of none
FIRST = np.random.default_rng(5).normal(size=SIZE).astype(np.float32)


def private_driver(
    pool_class: type[SplitPool],
    num_workers: int,
    state: ServerState | None = None,
    **scenario: Any,
) -> Driver:
    """Its cohorts have two clients, drawn by chance on average, and one of six has none."""
    settings = rounds_of()
    scenario = {"cohort_size": 2, "num_rounds": PRIVATE_ROUNDS} | scenario
    federation = replace(settings.federation, **scenario)
    private = PrivateRoundsConfig(epsilon=20.0, clip_norm=0.2, clip_quantile=0.5, noise_cohort=9)
    guarantee = rounds_guarantee(private, 9, federation.cohort_size, PRIVATE_ROUNDS)
    settings = replace(settings, federation=federation, guarantee=guarantee)
    pool = pool_class(settings, num_workers)
    return Driver(pool, ServerState.initial(FIRST) if state is None else state, settings)


def private_state_after(driver: Driver, num_rounds: int = PRIVATE_ROUNDS) -> dict[str, np.ndarray]:
    for _ in range(num_rounds):
        driver.run_round()
    state = driver.state
    assert state.releases is not None
    assert state.clip_norm is not None
    assert state.releases.tolist() == [state.round_idx]
    return {"weights": state.weights, "clip_norm": state.clip_norm}


def test_a_private_round_is_the_clipped_sum_and_the_noise_once() -> None:
    driver = private_driver(SplitPool, 3)
    worker = Worker(driver.settings)
    sizes = []
    for round_idx in range(PRIVATE_ROUNDS):
        before, cohort = driver.state, worker.private_cohort(-1, round_idx)
        assert driver.private is not None
        plan = driver.private.plan(driver.settings.plan(round_idx, (), cohort), before, len(cohort))
        form = driver.settings.update_format(plan, before.broadcast)
        assert isinstance(form, ClippedFormat)
        updates = [update_of(c, before.broadcast, plan) for c in cohort]
        summands = [form.encode(update) for update in updates]
        total = np.sum([*summands, form.noise(NOISE_KEY, round_idx)], axis=0, dtype=np.uint64)
        driver.run_round()
        np.testing.assert_array_equal(driver.state.weights, form.decode(total).weights)
        sizes.append(len(cohort))
    assert len(set(sizes)) > 2
    assert 0 in sizes


def test_private_rounds_are_the_same_for_any_number_of_workers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def found(pool_class: type[SplitPool], num_workers: int) -> dict[str, np.ndarray]:
        return private_state_after(private_driver(pool_class, num_workers))

    expected = found(SplitPool, 1)
    assert_same(found(SplitPool, 4), expected)
    monkeypatch.setattr(accumulation, "STRETCH_BYTES", 1)
    assert_same(found(SplitPool, 7), expected)
    caplog.clear()
    assert_same(found(LosesItsSum, 1), expected)  # of several, the last may hold nothing
    assert "updates in round 1 are lost: computed again" in caplog.text
    monkeypatch.setitem(globals(), "NOISE_KEY", SecretNoise(bytes(32)))
    other = found(SplitPool, 1)
    assert (other["weights"] != expected["weights"]).mean() > 0.99


def test_a_private_run_that_goes_on_publishes_the_same_and_spends_once() -> None:
    driver = private_driver(SplitPool, 2)
    private_state_after(driver, num_rounds=3)
    kept = driver.state
    expected = private_state_after(driver, num_rounds=3)
    resumed = private_driver(SplitPool, 3, kept)
    assert_same(private_state_after(resumed, num_rounds=3), expected)
    for finished in (driver, resumed):
        with pytest.raises(
            BudgetError, match=r"^expected at most 6 noisy sums, .*, got 6 that are"
        ):
            finished.run_round()
        assert finished.state.round_idx == PRIVATE_ROUNDS
    spent = replace(kept, releases=np.array([6.0]))  # of a checkpoint that has spent it all
    with pytest.raises(BudgetError, match="the run stops before it"):
        private_driver(SplitPool, 1, spent).run_round()


@pytest.mark.usefixtures("_masks")
@pytest.mark.parametrize(("cohort_size", "drop_rate"), [(3, 0.0), (9, 0.15)])
def test_masks_change_no_bit_of_private_rounds(
    cohort_size: int,
    drop_rate: float,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever takes part, drops out or is lost: the masks come off the sum with its noise."""
    monkeypatch.setitem(globals(), "NOISE_KEY", SMALL_COHORTS)
    scenario = {"cohort_size": cohort_size, "drop_rate": drop_rate}

    def found(pool_class: type[SplitPool], num_workers: int, is_secure: bool) -> Driver:
        words = scenario | {"secure_aggregation": is_secure}
        return private_driver(pool_class, num_workers, **words)

    plain = found(SplitPool, 1, False)
    expected = private_state_after(plain)
    assert_same(private_state_after(found(SplitPool, 3, True)), expected)
    assert_same(private_state_after(found(LosesItsSum, 1, True)), expected)
    assert "updates in round 1 are lost: computed again" in caplog.text
    worker, seed = Worker(plain.settings), plain.settings.seed
    cohorts = [worker.private_cohort(-1, round_idx) for round_idx in range(PRIVATE_ROUNDS)]
    sizes = [len(cohort) for cohort in cohorts]
    assert {*sizes} >= ({0, 1, 2} if cohort_size == 3 else {NUM_CLIENTS})
    chances = (drop_rate, seed)
    responding = [responding_clients(c, *chances, r, True) for r, c in enumerate(cohorts)]
    assert ([len(some) for some in responding] != sizes) == (drop_rate > 0)


def test_a_private_round_of_which_all_clients_drop_out_is_the_noise_alone() -> None:
    """Nobody responds in the place of another: the sum would change by two clients' changes."""
    driver, asked = private_driver(SplitPool, 1, drop_rate=0.9), list[list[int]]()
    assert isinstance(driver.pool, SplitPool)
    worker, seed = driver.pool.workers[0], driver.settings.seed
    for _ in range(PRIVATE_ROUNDS):
        done = len(worker.asked)
        driver.run_round()
        asked.append(sorted(worker.asked[done:]))
    cohorts = [worker.private_cohort(-1, round_idx) for round_idx in range(PRIVATE_ROUNDS)]
    expected = [responding_clients(c, 0.9, seed, r, True) for r, c in enumerate(cohorts)]
    assert asked == expected
    assert any(cohort and not there for cohort, there in zip(cohorts, asked, strict=True))


@pytest.mark.usefixtures("_masks")
def test_a_masked_private_round_of_which_all_clients_drop_out_ends_the_run() -> None:
    driver = private_driver(SplitPool, 2, drop_rate=0.99, cohort_size=9, secure_aggregation=True)
    with pytest.raises(AggregationError, match=r"^expected at least 7 of 9 clients.*, got 0: "):
        driver.run_round()


def test_the_record_of_a_private_round_tells_nothing_of_its_cohort() -> None:
    driver, records = private_driver(SplitPool, 2), set()
    for _ in range(PRIVATE_ROUNDS):
        stats = driver.run_round()
        assert stats.loss is None
        records.add((stats.up_bytes, stats.down_bytes, stats.num_steps, stats.num_dropped))
    assert records == {(2 * 8 * (SIZE + 1), 2 * 4 * SIZE, 0, 0)}
