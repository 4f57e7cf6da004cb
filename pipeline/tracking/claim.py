"""Claims: the owner of a foreign run makes it this root's own with `--mine`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.config.tracking import TrackingConfig
from pipeline.runs.layout import START
from pipeline.runs.links import refuse_links
from pipeline.runs.ownership import (
    NAMED,
    Begun,
    begun_here,
    check_artifacts,
    check_is_at_home,
    name_address,
    note_begun,
)
from pipeline.runs.record import read_record
from pipeline.runs.start import recorded_places
from pipeline.tracking.mlflow_queries import readable_uri
from pipeline.tracking.mlflow_session import artifact_addresses, check_run, first_contact


def claim(run_dir: Path, given: TrackingConfig, overrides: Sequence[str] = ()) -> None:
    """Make a run this root's own, with the addresses of its record; a warning names each before.

    `given`: the settings of the command line, which count first. RunError if the run's folder holds
    a link. RunError also if its artifacts would go to a folder of another root, unless `given.uri`
    names the store.
    """
    root = check_is_at_home(run_dir, given)
    if begun_here(run_dir, root) is not None:
        return
    refuse_links(run_dir)
    record, addresses = read_record(run_dir), list[str]()
    recorded = Begun(record["uri"])
    settings = recorded_places(run_dir, overrides) if (run_dir / START).is_file() else {}
    settings |= {"tracking.storage": given.storage} if given.storage else {}
    for key in NAMED:
        if address := settings.get(key):
            name_address(run_dir, f"{key} is", address)
    if record["tracked"] and given.enabled:
        tracking = replace(given, uri=given.uri or recorded.stored_uri)
        uri = readable_uri(tracking)
        name_address(run_dir, "its store is", uri)
        with first_contact(uri) as client:
            addresses = artifact_addresses(client, check_run(client, record, uri), False)
        for address in addresses:
            name_address(run_dir, "its artifacts go to", address)
            if given.uri is None:
                check_artifacts(address, None, root)
        recorded = Begun(given.uri or record["uri"])
    note_begun(root, record["run_id"], replace(recorded, artifacts=addresses, settings=settings))
