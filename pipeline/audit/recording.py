"""An audit in its run's folder and outbox, from which the run's tracking store gets it."""

from pathlib import Path

from pipeline.audit.outcome import Audit
from pipeline.files.json_files import write_json
from pipeline.results.metric_names import AUDITED_TABLE, FINAL_STEP
from pipeline.runs.layout import AUDIT
from pipeline.runs.record import read_record
from pipeline.tracking.run_log import RunLog
from pipeline.tracking.tracker import NullTracker


def record_audit(run_dir: Path, audit: Audit) -> Path:
    """Write an audit into its run's folder and append it to the run's entries; return the file.

    Metrics are those of the first audit: a step of a metric is recorded once. The file and the
    tables are replaced. An audit of other settings than the run's own is in the file alone.
    """
    path = run_dir / AUDIT
    write_json(path, audit.as_dict())
    if audit.overrides:
        return path
    record = read_record(run_dir)
    is_tracked = record["tracked"]
    log = RunLog(run_dir, False) if is_tracked else NullTracker(record["run_id"], run_dir)
    log.log_metrics(audit.metrics(), FINAL_STEP)
    if audit.messages is not None:
        log.log_table("tables/privacy_messages.json", audit.message_table())
    if audit.models is not None:
        log.log_table("tables/privacy_models.json", audit.model_table())
        log.log_table(AUDITED_TABLE, audit.client_table())
    return path
