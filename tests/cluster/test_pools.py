"""The strongest test there is: any pool and any number of actors give the same state, bit for bit.

Real MNIST, real Ray; the experiment is the whole of `run_experiment` without tracking.
"""

import contextlib
import gc
import gzip
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch
from tiny_backbone import write_backbone

from pipeline.checkpoint.snapshots import kept_rounds, newest_checkpoint
from pipeline.clients.worker import ClientWorker
from pipeline.cluster import actor_pool
from pipeline.cluster.actor_plan import ActorPlan
from pipeline.cluster.actor_pool import RayClientPool
from pipeline.cluster.client_actor import ClientActor
from pipeline.config.load import load_config
from pipeline.config.meaning import pretrain_fingerprint
from pipeline.config.schema import Config
from pipeline.data.glyphs import CHARACTERS, caption_of
from pipeline.experiment.pools import open_pool
from pipeline.experiment.run import resume_experiment, run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.federation.driver import Driver
from pipeline.federation.messages import WorkerSetup
from pipeline.federation.pool import ClientPool
from pipeline.federation.rounds import RoundSettings, RoundStats, promise_to_clients
from pipeline.federation.setup import FederationSetup, prepare
from pipeline.results.metric_names import EPSILON
from pipeline.runs.layout import trace_path
from pipeline.tracking.outbox import read_points
from spire_core.errors import ClusterError, RunError
from spire_core.federated.server import ServerState
from spire_core.network.flat_model import initial_weights

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors cannot import a test file
pytestmark = pytest.mark.usefixtures("ray_cluster")

WORDS = ",".join(sorted({word for char in CHARACTERS for word in caption_of(char).split()}))
D_EMB = 37  # a size that nothing else has
POPULATION = ("partition=independent", "partition.client_size=40", "federation.num_clients=10000")
POPULATION += ("federation.cohort_size=4", "eval.num_clients=4")  # in groups, of 3 and 1
PRIVATE = ("privacy.adapt.epsilon=4", "privacy.noise_key=pools", "privacy.adapt.steps=3")
PRIVATE += ("adapt.group_size=1",)  # each new client on an actor of its own
ROUNDS = (
    "privacy.rounds.epsilon=8",
    "privacy.noise_key=pools",
    "client.opt_state=reset",
    "client.engine=loop",
)
EMBEDDING = ("adapt.init=mean", "adapt.draws=2", "adapt.schedule=cosine", "adapt.average=0.5")
EMBEDDING += ("adapt.guidance=[1,2,4]",)
WITH_TEXT = ("data=fonts", "data.image_size=16", "partition=natural", "model.text=words")
WITH_TEXT += ("eval.extractor=fonts-cnn", "federation.num_clients=4", "client.text_dropout=0.1")
WITH_TEXT += ("federation.num_new_clients=1", "adapt.num_images=8", f"model.words=[{WORDS}]")

PRETRAINED = ("data.image_size=8", "client.lr=0.01", "adapt.guidance=[1,2]", "adapt.group_size=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs, which so have what does not change between them in common."""
    return tmp_path_factory.mktemp("pools")


def config_for(mnist_root: Path, folder: Path, *overrides: str) -> Config:
    return load_config(
        "smoke",
        [
            f"data.root={mnist_root}",
            "tracking.enabled=false",
            f"tracking.root={folder}",
            f"model.d_emb={D_EMB}",
            "federation.num_rounds=3",
            "federation.cohort_size=3",
            "adapt.epochs=2",
            "eval.num_images=16",
            "eval.num_loss_images=8",
            "eval.num_clients=2",
            "eval.every=0",
            "diffusion.sample_steps=2",
            *overrides,
        ],
    )


def pids_of(actor: str) -> list[int]:
    """The actors of a class in this process's own Ray."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            if "".join(process.cmdline()[:1]).startswith(f"ray::{actor}"):
                found.append(process.pid)
    return found


class KeptActors:
    """Stands for the class of client actors; a run gets the first of those that are there."""

    def __init__(self) -> None:
        self.actors: list[Any] = []

    def options(self, **options: Any) -> SimpleNamespace:
        there = iter([*self.actors])

        def start() -> Any:
            actor = next(there, None)
            if actor is None:
                self.actors.append(actor := ClientActor.options(**options).remote())
            return actor

        return SimpleNamespace(remote=start)


@pytest.fixture(scope="class")
def _kept_actors(ray_cluster: None) -> Iterator[None]:
    """Client actors stay for all runs of a class of tests, each of which begins in them anew.

    To start a process takes seconds.
    """
    kept = KeptActors()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(actor_pool, "ClientActor", kept)
        patch.setattr(RayClientPool, "close", lambda self: None)
        yield
    for actor in kept.actors:
        ray.kill(actor)
    until = time.monotonic() + 60
    while pids_of("ClientActor") and time.monotonic() < until:
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("_kept_actors")
class TestEquality:
    """Runs that leave their actors alone."""

    @pytest.mark.parametrize(
        ("method", "settings", "actors"),
        [
            ("spire", ("client.engine=loop", "model.num_embs=4"), (1, 3)),
            ("spire", ("client.engine=loop", *PRIVATE, "adapt.init=mean"), (2,)),
            (
                "spire",
                (*POPULATION, *ROUNDS, "privacy.rounds.noise_cohort=10000"),
                (2,),
            ),  # cohorts, and scored clients, by the key
            (
                "spire",
                ("federation.secure_aggregation=true", *EMBEDDING, "adapt.group_size=1"),
                (2,),
            ),
            ("retrofit", PRETRAINED, (2,)),
            (
                "fedavg_ft",
                (
                    "client.engine=grouped",
                    "client.group_size=3",  # one of two actors has none
                    "federation.drop_rate=0.6",
                ),
                (2,),
            ),
            (
                "shared_rep",
                (
                    "client.engine=grouped",
                    "client.group_size=2",
                    "client.compression=top_k",
                    "adapt.local_init=mean",
                    "federation.drop_rate=0.6",
                ),
                (2,),
            ),
            ("spire", ("client.engine=grouped", "client.group_size=2", *WITH_TEXT), (2,)),
            (
                "calm",
                ("data=bars", "eval.extractor=mnist-cnn", "eval.metrics=[contrast_gap]"),
                (2,),
            ),
        ],
    )
    def test_ray_pool_equals_local_pool_for_any_number_of_actors(
        self,
        method: str,
        settings: tuple[str, ...],
        actors: tuple[int, ...],
        mnist_root: Path,
        fonts_root: Path,
        folder: Path,
    ) -> None:
        if settings == PRETRAINED:
            settings += (f"model.backbone={write_backbone(folder / 'ddpm')}",)

        def found(*overrides: str) -> tuple[str, float]:
            root = fonts_root if "data=fonts" in settings else mnist_root
            config = config_for(root, folder, f"method={method}", *settings, *overrides)
            result = run_experiment(config, "smoke", Watcher())
            trace = trace_path(result.run_dir)
            assert (trace is not None) == config.tracking.profile
            assert trace is None or b"round 3, client" in gzip.decompress(trace.read_bytes())
            return result.state_fingerprint, result.metrics["final/adapt_kid_after"]

        local = found("resources.pool=local")
        watched = f"tracking.profile={method == 'fedavg_ft'}"  # a client actor, by torch's profiler
        told = {n: found(f"resources.num_actors={n}", watched) for n in actors}
        assert told == dict.fromkeys(actors, local)

    def test_checkpoints_hold_the_round_they_are_named_after(
        self, mnist_root: Path, folder: Path
    ) -> None:
        """Whole while later rounds are on their way, they are a local pool's, to the byte."""

        def files(pool: str) -> dict[str, bytes]:
            often = ("tracking.checkpoint_every=1", "tracking.keep_checkpoints=5")
            often += ("resources.num_actors=2",)
            config = config_for(
                mnist_root, folder, *often, f"resources.pool={pool}", "federation.num_rounds=4"
            )
            run_dir = run_experiment(config, "smoke", Watcher()).run_dir
            paths = (run_dir / "checkpoints").glob("**/*")
            return {
                str(path.relative_to(run_dir)): path.read_bytes()
                for path in paths
                if path.is_file()
            }

        expected = files("local")
        assert len(expected) == 2 * 4
        assert files("ray") == expected


class Troubled(Watcher):
    """Does something to a run's actors after each of some rounds."""

    def __init__(self, trouble: Callable[[int], None], *after_rounds: int) -> None:
        self.trouble, self.after_rounds = trouble, after_rounds

    def started(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    def after_round(self, stats: RoundStats, driver: Driver) -> None:
        if stats.round_idx + 1 in self.after_rounds:
            self.trouble(stats.round_idx + 1)


@pytest.fixture(scope="module")
def whole(mnist_root: Path, folder: Path) -> str:
    """The state of a run that nothing happens to."""
    config = config_for(mnist_root, folder, "resources.pool=local")
    return run_experiment(config, None, Watcher()).state_fingerprint


@pytest.mark.slow
def test_killed_actors_come_back_and_nothing_changes(
    whole: str, mnist_root: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def kill(after_round: int) -> None:  # one of two actors, then both
        pids = pids_of("ClientActor")
        assert len(pids) == 2
        for pid in pids[:after_round]:
            os.kill(pid, signal.SIGKILL)

    config = config_for(mnist_root, folder, "resources.num_actors=2", "tracking.profile=true")
    result = run_experiment(config, None, Troubled(kill, 1, 2))
    assert result.state_fingerprint == whole
    assert "no profile: the client actor that was watched has been lost" in caplog.text
    assert trace_path(result.run_dir) is None


@pytest.mark.slow
def test_a_run_whose_driver_is_killed_resumes_to_the_same_state(
    mnist_root: Path, folder: Path
) -> None:
    """Its rounds are private: it publishes as many sums as the budget carries, each of them once.

    That of a public run is resumed in tests/e2e/test_ray_losses.py.
    """

    def kill(after_round: int) -> None:
        [pid] = pids_of("DriverActor")
        os.kill(pid, signal.SIGKILL)

    private = (*ROUNDS, "federation.cohort_size=6")
    words = ("tracking.checkpoint_every=1", "resources.num_actors=1", *private)
    config = config_for(mnist_root, folder, *words)
    local = config_for(mnist_root, folder, *private, "resources.pool=local")
    whole = run_experiment(local, None, Watcher()).state_fingerprint
    watcher = Troubled(kill, 2)
    with pytest.raises(ClusterError, match="expected every actor to stay alive") as lost:
        run_experiment(config, None, watcher)
    assert "\n" not in str(lost.value)
    assert 1 in kept_rounds(watcher.run_dir)  # whole before the round that was the last
    result = resume_experiment(watcher.run_dir, config, Watcher())
    assert result.state_fingerprint == whole
    state = newest_checkpoint(watcher.run_dir, pretrain_fingerprint(config))
    assert state is not None
    assert state.releases is not None
    assert state.releases.tolist() == [3]
    guarantee, points = promise_to_clients(config), read_points(watcher.run_dir)
    assert guarantee is not None
    spent = [metrics[EPSILON] for _, metrics in points if EPSILON in metrics]
    assert spent == [guarantee.spent(done) for done in (1, 2, 3)]


@pytest.mark.slow
def test_an_actor_that_comes_back_without_the_runs_folder_ends_the_run(
    mnist_root: Path, folder: Path
) -> None:
    """As on a node that does not share it: its clients would start from nothing again."""
    setting = prepare(config_for(mnist_root, folder, "resources.num_actors=1"))
    run_dir = folder / "of one node"
    run_dir.mkdir()
    with open_pool(setting, run_dir) as (pool, _):
        run_dir.rmdir()
        [pid] = pids_of("ClientActor")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ClusterError, match="a node without it: name a folder"):
            pool.run_all("private_state", [0])


@pytest.mark.slow
def test_a_hanging_actor_is_ended_and_its_work_done_again(
    whole: str, mnist_root: Path, folder: Path
) -> None:
    def stop(after_round: int) -> None:
        [pid] = pids_of("ClientActor")
        os.kill(pid, signal.SIGSTOP)

    limits = ("resources.num_actors=1", "federation.client_timeout_s=5.0")
    config = config_for(mnist_root, folder, *limits)
    result = run_experiment(config, None, Troubled(stop, 1))
    assert result.state_fingerprint == whole


class Interrupter(Watcher):
    """Stops the client actors after a round, and interrupts this process in the next one."""

    def __init__(self, after_round: int) -> None:
        self.at_round, self.run_dir = after_round, Path()
        self.has_ended, self.was_helped = threading.Event(), False

    def started(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    def after_round(self, stats: RoundStats, driver: Driver) -> None:
        if stats.round_idx + 1 == self.at_round:
            pids = pids_of("ClientActor")
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            threading.Thread(target=self._run, args=(pids,)).start()

    def _run(self, pids: list[int]) -> None:
        while not pids_of("DriverActor.run_round"):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        if not self.has_ended.wait(60):
            self.was_helped = True
            for pid in pids:
                os.kill(pid, signal.SIGCONT)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt here, also in a worker of pytest-xdist, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_run_keeps_its_last_round_though_a_client_hangs(
    mnist_root: Path, folder: Path
) -> None:
    words = ("resources.num_actors=1", "tracking.profile=true")
    watcher = Interrupter(after_round=2)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(config_for(mnist_root, folder, *words), None, watcher)
    assert not watcher.was_helped
    watcher.has_ended.set()
    assert kept_rounds(watcher.run_dir) == (2,)
    assert [step for step, found in read_points(watcher.run_dir) if "pretrain/loss" in found] == [
        1,
        2,
    ]


LEAVES = (torch.Tensor, np.ndarray, bytes, bytearray)
INVERTED = bytes(255 - i for i in range(256))


class Confessing(Driver):
    """A driver that tells whether its process holds some numbers: in tensors, arrays or bytes.

    The needles arrive inverted, so that the search does not find its own question.
    """

    def hide(self, inverted: bytes) -> None:
        """Hold float32 numbers where Python's collector does not look: in a dict of arrays."""
        numbers = np.frombuffer(inverted.translate(INVERTED), np.float32).copy()
        self.hidden = {"embeddings": {0: numbers}}

    def holds(self, inverted_needles: list[bytes]) -> list[bool]:
        found = [False] * len(inverted_needles)
        for raw in _all_memory():
            inverted = raw.translate(INVERTED)
            found = [f or n in inverted for f, n in zip(found, inverted_needles, strict=True)]
        return found


def _all_memory() -> Iterator[bytes]:
    """Yield the bytes of every tensor, array and byte string that this process refers to.

    All are looked for before the first is returned: what the search makes is not among them.
    """
    left = gc.get_objects()  # without dicts and tuples of nothing but leaves: they hang below these
    seen: dict[int, Any] = {}  # by id, which stays theirs as long as they are held here
    while left:
        thing = left.pop()
        if id(thing) not in seen:
            seen[id(thing)] = thing
            left += gc.get_referents(thing)
    for held in seen.values():
        kind = type(held)  # isinstance would wake deprecated lazy objects of torch
        if issubclass(kind, LEAVES):
            if issubclass(kind, torch.Tensor):
                held = held.detach().cpu().contiguous().numpy()
            yield held.tobytes() if isinstance(held, np.ndarray) else bytes(held)


Opened = tuple[FederationSetup, ClientPool]


@pytest.fixture(scope="module")
def opened(mnist_root: Path, folder: Path, ray_cluster: None) -> Iterator[Opened]:
    words = ("resources.num_actors=1", "client.compression=top_k")
    setting = prepare(config_for(mnist_root, folder, *words))
    # Captions that are found in memory, because no other numbers are like them.
    tokens = np.random.default_rng(5).integers(2**40, 2**60, (len(setting.images), 4))
    setting = replace(setting, tokens=tokens)
    with open_pool(setting, folder) as (pool, _):
        yield setting, pool


def test_the_driver_never_holds_what_is_a_clients_own(opened: Opened, folder: Path) -> None:
    setting, pool = opened
    config = setting.config
    weights = initial_weights(config.model, config.method, 1, config.seed).numpy()
    layout = setting.model.layout
    rounds = RoundSettings(config, setting.partition.train_sizes, layout.num_without_local)
    driver = ray.remote(Confessing).remote(pool, ServerState.initial(weights), rounds)
    for _ in range(4):
        ray.get(driver.run_round.remote())  # type: ignore[attr-defined]
    setup = WorkerSetup(
        setting.config, setting.mixtures, setting.partition, setting.extractor, folder
    )
    assert setting.tokens is not None
    captions = [setting.tokens[setting.partition.split(c).train[0]] for c in setting.train_ids]
    worker = ClientWorker(setup, setting.images)
    states = [worker.private_state(c) for c in setting.train_ids]
    needles = [s.parts["client_emb"].numpy().tobytes() for s in states]
    assert all(len(n) == 4 * D_EMB for n in needles)
    assert sum("client_emb" in s.moments for s in states) >= 3  # some have trained
    needles += [tokens.tobytes() for tokens in captions]
    unsent = [_unsent(s.residual) for s in states if s.residual is not None]
    assert len(unsent) >= 3
    moments = [s.moments["client_emb"] for s in states if "client_emb" in s.moments]
    needles += unsent + [one.exp_avg.numpy().tobytes() for one in moments]
    backbone = ray.get(driver.model_weights.remote())  # type: ignore[attr-defined]
    controls = [backbone[100 : 100 + D_EMB].tobytes()]  # what it does hold is found
    controls += [np.random.default_rng(0).random(D_EMB, np.float32).tobytes()]
    inverted = [n.translate(INVERTED) for n in [*needles, *controls]]
    ray.get(driver.hide.remote(inverted[-1]))  # type: ignore[attr-defined]
    held = ray.get(driver.holds.remote(inverted))  # type: ignore[attr-defined]
    assert held == [False] * len(needles) + [True, True]


def _unsent(residual: torch.Tensor) -> bytes:
    """As many numbers as an embedding has, next to each other, of what a client has not sent."""
    windows = residual.unfold(0, D_EMB, 1)
    return windows[(windows != 0).all(dim=1)][0].numpy().tobytes()


def test_an_actors_error_keeps_its_type_and_sentence(opened: Opened) -> None:
    with pytest.raises(RunError, match=r"^expected a noise key"):
        opened[1].run_all("private_cohort", [0], 0)


class Bomb:
    """Ends the process that it is sent to."""

    def __reduce__(self) -> tuple[Any, tuple[int]]:
        return os._exit, (1,)


class GpuBreaker:
    """Breaks the GPU of the process that it is sent to: every later call there fails."""

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return break_gpu, ()


def break_gpu() -> int:
    def fail(*_: Any) -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered\nSee more")

    ClientWorker.private_state = fail  # type: ignore[method-assign]
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Bomb(), GpuBreaker()])
def test_a_client_that_always_ends_its_actor_ends_the_run_with_its_name(
    opened: Opened, fault: object
) -> None:
    """Ray takes a process whose GPU is broken for alive; it ends itself, and is replaced."""
    pool, rounds = opened[1], [(0,), (0,), (fault,), (0,)]
    with pytest.raises(ClusterError, match=r"for client 2, got a lost actor .*, 3 times: "):
        pool.run_all("private_state", [0, 1, 2, 3], per_unit=rounds)
    assert len(pool.run_all("private_state", [0, 1])) == 2  # there is another actor now


@contextlib.contextmanager
def no_room() -> Iterator[None]:
    """Every CPU of the cluster is taken meanwhile, and one more is asked for."""

    class Idle:
        def answer(self) -> None:
            pass

    num_free = int(ray.available_resources().get("CPU", 0))
    idle = [ray.remote(num_cpus=1)(Idle).remote() for _ in range(num_free + 1)]
    ray.wait([one.answer.remote() for one in idle], num_returns=num_free)
    yield
    for one in idle:
        ray.kill(one)


@pytest.mark.slow
def test_a_lost_actor_that_nobody_has_room_for_is_done_without(
    mnist_root: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The driver's copy of the pool finds it lost for good, too."""
    monkeypatch.setattr(actor_pool, "REVIVAL_S", 3.0)
    setting = prepare(config_for(mnist_root, folder, "resources.num_actors=auto"))
    with open_pool(setting, folder, ActorPlan(2, 1.0, 0.0)) as (pool, _), no_room():
        assert isinstance(pool, RayClientPool)
        copy = ray.cloudpickle.loads(ray.cloudpickle.dumps(pool))
        os.kill(ray.get(pool.actors[0].__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)
        for one in (pool, copy):
            states = one.run_all("private_state", [0, 1, 2, 3])
            assert all("client_emb" in state.parts for state in states)
            assert one.num_workers == 1
    assert caplog.text.count("going on with 1 client actor, without a lost one: ") == 2
