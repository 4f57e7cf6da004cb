"""Pictures that runs drew, for a report: what new clients draw, and who holds which images."""

import io
from collections.abc import Sequence

from PIL import Image

from pipeline.config.tracking import TrackingConfig
from pipeline.tracking.mlflow_queries import artifact_bytes
from sweeps.report.client_dots import ClientRows
from sweeps.report.contents import Snapshot
from sweeps.report.groups import Group, by_task, label, seed_of

MAX_SAMPLES = 8  # pictures on a page


def sample_pictures(
    config: TrackingConfig, groups: Sequence[Group], rows: ClientRows
) -> list[Snapshot]:
    """Return one new client's images for each group: its own, and drawn before and after.

    They are the left half of the picture `samples/client_<id>.png` of the group's first run, which
    has 16 images in a row. Groups whose run drew none are left out.
    """
    found = []
    for group in groups:
        run = group.runs[0]
        ids = [int(row["client_id"]) for row in rows.get(run.run_id, ())]
        path = f"samples/client_{min(ids)}.png" if ids else ""
        data = artifact_bytes(config, run.run_id, path) if path else None
        png = None if data is None else packed(data, is_halved=True)
        if png is not None:
            title = ", ".join(filter(None, (label(group.task), group.method)))
            text = f"{label(group.setting)} seed {seed_of(run)}".removeprefix("defaults").strip()
            found.append(Snapshot(f"samples_{len(found) + 1}", title, text, png))
        if len(found) == MAX_SAMPLES:
            break
    return found


def partition_pictures(config: TrackingConfig, groups: Sequence[Group]) -> list[Snapshot]:
    """Return who holds which images in each task: the plot of its first run, if that drew one."""
    found = []
    for task, here in by_task(groups).items():
        run = here[0].runs[0]
        data = artifact_bytes(config, run.run_id, "plots/partition.png")
        png = None if data is None else packed(data)
        if png is not None:
            title = " ".join(filter(None, ("Partition", f"({label(task)})" if task else "")))
            text = f"Images of each class at each client, of seed {seed_of(run)}."
            found.append(Snapshot(f"partition_{len(found) + 1}", title, text, png))
    return found


def packed(data: bytes, is_halved: bool = False) -> bytes | None:
    """Return a picture, or its left half, as a PNG of 256 colours; None if it is damaged."""
    small = io.BytesIO()
    try:
        picture = Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    if is_halved:
        picture = picture.crop((0, 0, picture.width // 2, picture.height))
    picture.quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()
