"""Where the copies of runs may lie: nowhere among the runs themselves, of which they drop files."""

from pathlib import Path

import pytest

from pipeline.checkpoint.remote import mirror_of
from pipeline.checkpoint.storage import check_storage, storage_of
from pipeline.config.tracking import TrackingConfig
from pipeline.runs.record import make_run_dir
from spire_core.errors import ConfigError

RUN_ID = "0123456789abcdef" * 2
REFUSED = r"expected tracking\.storage outside of .*/runs, where the runs are, got .*: choose"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "root" / "runs").mkdir(parents=True)
    return make_run_dir(TrackingConfig(root=str(tmp_path / "root")), RUN_ID, "name", None)


def storage_at(folder: Path, root: Path) -> TrackingConfig:
    return TrackingConfig(root=str(root), storage=f"file://{folder}")


@pytest.mark.parametrize(
    "place", ["root/runs", "root/runs/", f"root/runs/{RUN_ID}", "root/runs/new/one", "way", "way/x"]
)
def test_a_storage_among_the_runs_is_refused(place: str, run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to(run_dir.parent)
    config = storage_at(tmp_path / place, tmp_path / "root")
    with pytest.raises(ConfigError, match=REFUSED):
        check_storage(config)
    with pytest.raises(ConfigError, match=REFUSED):
        mirror_of(run_dir, config)


def test_runs_that_a_link_leads_to_are_found_too(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "runs").symlink_to(run_dir.parent)
    with pytest.raises(ConfigError, match=REFUSED):
        check_storage(storage_at(run_dir.parent, tmp_path / "mine"))


@pytest.mark.parametrize("place", ["root", "root/runs-kept", "elsewhere/runs"])
def test_a_storage_beside_the_runs_is_taken(place: str, run_dir: Path, tmp_path: Path) -> None:
    config = storage_at(tmp_path / place, tmp_path / "root")
    check_storage(config)
    mirror = mirror_of(run_dir, config)
    assert mirror is not None
    assert mirror.folder == f"{tmp_path}/{place}/{RUN_ID}"


def test_a_copy_that_is_a_link_to_the_run_is_refused(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / RUN_ID).symlink_to(run_dir)
    with pytest.raises(ConfigError, match=REFUSED):
        mirror_of(run_dir, storage_at(tmp_path / "there", tmp_path / "root"))


def test_a_run_of_another_root_has_no_mirror_among_its_neighbours(
    run_dir: Path, tmp_path: Path
) -> None:
    config = storage_at(run_dir.parent, tmp_path / "mine")
    check_storage(config)
    with pytest.raises(ConfigError, match=REFUSED):
        mirror_of(run_dir, config)


def test_the_address_of_the_runs_own_folder_names_no_storage(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to(run_dir.parent)
    for address in (run_dir, tmp_path / "way" / RUN_ID):
        assert storage_of(f"file://{address}", run_dir) is None
        assert storage_of(f"file://{address}/", run_dir) is None
    copy = f"file://{tmp_path}/there"
    assert storage_of(f"{copy}/{RUN_ID}", run_dir) == copy
    assert storage_of(f"s3://bucket/runs/{RUN_ID}?region=x", run_dir) == "s3://bucket/runs?region=x"
