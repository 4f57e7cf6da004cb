"""Client actors that die between their clients' answers and the end of the round's sum."""

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from pipeline.config.load import load_config
from pipeline.experiment.pools import open_pool
from pipeline.federation.driver import Driver
from pipeline.federation.pool import ClientPool
from pipeline.federation.rounds import RoundSettings, promise_to_clients
from pipeline.federation.setup import FederationSetup, prepare
from pipeline.runs.noise_key import keep_noise_key
from spire_core.federated.server import ServerState
from spire_core.network.flat_model import initial_weights

pytestmark = pytest.mark.usefixtures("ray_cluster")
NUM_ROUNDS = 4
LOST = "groups of clients are lost: computed again"  # of the log


def setting_for(mnist_root: Path, folder: Path, *words: str) -> FederationSetup:
    sizes = ["federation.num_clients=7", "federation.cohort_size=7", "federation.tau=1"]
    places = [f"data.root={mnist_root}", f"tracking.root={folder}", "tracking.enabled=false"]
    more = ["client.engine=loop", "eval.num_clients=2", "resources.num_cpus=0.1"]
    return prepare(load_config("smoke", [*sizes, *places, *more, *words]))


def on_actors(local: FederationSetup, num_actors: int) -> FederationSetup:
    """The same setting in Ray's pool; its images are made once."""
    resources = replace(local.config.resources, pool="ray", num_actors=num_actors)
    setting = replace(local, config=replace(local.config, resources=resources))
    vars(setting)["images"] = local.images
    return setting


def kill_an_actor(pool: ClientPool) -> None:
    """Kill one that has clients; each of its tasks has ended."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "".join(process.cmdline()[:1]).startswith("ray::ClientActor"):
                os.kill(process.pid, signal.SIGKILL)
                return
    raise AssertionError("no client actor runs")


def state_after(
    setting: FederationSetup, folder: Path, trouble: Callable[[Driver], None] = lambda driver: None
) -> ServerState:
    config = setting.config
    weights = initial_weights(config.model, config.method, 1, config.seed).numpy()
    sizes, shared_size = setting.partition.train_sizes, setting.model.layout.num_without_local
    rounds = RoundSettings(config, sizes, shared_size, promise_to_clients(config))
    folder.mkdir()
    keep_noise_key(folder, config.privacy)
    with open_pool(setting, folder) as (pool, _):  # the driver stays in this process
        driver = Driver(pool, ServerState.initial(weights), rounds)
        trouble(driver)
        for _ in range(NUM_ROUNDS):
            driver.run_round()
    return driver.state


def assert_same(found: ServerState, expected: ServerState) -> None:
    np.testing.assert_array_equal(found.weights, expected.weights)
    moments, others = (one.moments.arrays if one.moments else () for one in (found, expected))
    for one, other in zip(moments, others, strict=True):
        np.testing.assert_array_equal(one, other)


def lose_one_before_its_sum(driver: Driver) -> None:
    """Kill a client actor in round 2, when its clients have answered."""
    each = driver.pool.each

    def each_after_a_loss(method: str, *args: Any) -> Any:
        if (method, *args) == ("summed", 2):
            driver.pool.each = each  # type: ignore[method-assign]
            kill_an_actor(driver.pool)
        return each(method, *args)

    driver.pool.each = each_after_a_loss  # type: ignore[method-assign]


def lose_one_as_sums_are_passed_on(driver: Driver) -> None:
    """Kill a client actor in round 3, when all clients are known to be in the sums."""
    total = driver.pool.total

    def total_after_a_loss(name: int | str) -> Any:
        if name == 3:
            driver.pool.total = total  # type: ignore[method-assign]
            kill_an_actor(driver.pool)
        return total(name)

    driver.pool.total = total_after_a_loss  # type: ignore[method-assign]


def lose_one_between_two_clients(driver: Driver) -> None:
    """Kill a client actor in round 1 when it has added its first client, and will add others."""
    run_all = driver.pool.run_all

    def run_all_with_a_loss(task: str, units: Any, *args: Any, **more: Any) -> list[Any]:
        found = run_all(task, units[:2], *args, **more)
        if task == "fit" and args[1].round_idx == 1:
            driver.pool.run_all = run_all  # type: ignore[method-assign]
            kill_an_actor(driver.pool)
        return found + run_all(task, units[2:], *args, **more)

    driver.pool.run_all = run_all_with_a_loss  # type: ignore[method-assign]


def test_neither_three_actors_nor_lost_sums_change_a_bit(
    mnist_root: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    local = setting_for(mnist_root, tmp_path, "resources.pool=local")
    expected = state_after(local, tmp_path / "local")
    assert LOST not in caplog.text

    def lose_three(driver: Driver) -> None:
        lose_one_between_two_clients(driver)
        lose_one_before_its_sum(driver)
        lose_one_as_sums_are_passed_on(driver)

    assert_same(state_after(on_actors(local, 3), tmp_path / "lost", lose_three), expected)
    assert caplog.text.count(LOST) == 3


@pytest.mark.slow
def test_private_rounds_publish_the_same_with_lost_actors(mnist_root: Path, tmp_path: Path) -> None:
    """One sum has one noise, whoever adds it and however often: a second would spend twice."""
    words = [
        "privacy.rounds.epsilon=8",
        "privacy.noise_key=k",
        "client.opt_state=reset",
        "client.engine=loop",
    ]
    local = setting_for(mnist_root, tmp_path, "resources.pool=local", *words)
    expected = state_after(local, tmp_path / "local-private")
    assert expected.releases is not None
    assert expected.releases.tolist() == [NUM_ROUNDS]
    masked = [*words, "federation.secure_aggregation=true"]
    two = setting_for(mnist_root, tmp_path, "resources.num_actors=2", *masked)
    found = state_after(two, tmp_path / "private", lose_one_before_its_sum)
    assert_same(found, expected)
    assert found.releases is not None
    assert found.releases.tolist() == [NUM_ROUNDS]
    quiet = setting_for(mnist_root, tmp_path, "resources.pool=local", *words[2:])
    assert np.any(state_after(quiet, tmp_path / "quiet").weights != expected.weights)
