"""A client as a pipeline of diffusers: what fails leaves nothing in the way of the next try."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.inference import pipeline_folder
from pipeline.inference.pipeline_folder import write_pipeline

RUN: Any = SimpleNamespace(
    client_state=lambda client_id: None, model=SimpleNamespace(net=None), weights=None
)


class Full:
    """Writes files, and fails until there is room."""

    has_room = False

    def write(self, run: object, net: object, client_emb: object, folder: Path) -> None:
        (folder / "unet").mkdir(parents=True)
        (folder / "unet" / "config.json").write_text("{}")
        (folder / "model_index.json").write_text("{}")
        if not self.has_room:
            raise OSError(28, "No space left on device")


@pytest.mark.parametrize("is_there", [True, False])
def test_an_export_that_failed_can_be_tried_again(
    is_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, folder = Full(), tmp_path / "client"
    monkeypatch.setattr(pipeline_folder, "load_client", lambda *_: None)
    monkeypatch.setattr(pipeline_folder, "_write_own", full.write)
    if is_there:  # as a volume that is mounted
        folder.mkdir()
    with pytest.raises(OSError, match="No space left"):
        write_pipeline(RUN, None, folder)
    assert (folder.exists(), list(tmp_path.rglob("*.json"))) == (is_there, [])
    full.has_room = True
    write_pipeline(RUN, None, folder)
    assert (folder / "unet" / "config.json").is_file()
