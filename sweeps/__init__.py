"""Many experiments: sweeps over methods and settings, and their reports.

sweep         `run_sweep`: a sweep from its settings to its outcome; the place to begin
design/       the trials: settings, points, needs, time
execution/    the trials on Ray Tune
report/       tables and figures from MLflow
cli           the command `spire` with `sweep` and `report`
primary       the comparisons that a study is about, written down before it runs
outcome_text  a sweep before and after it runs, as text and JSON
conf/         built-in sweeps
__main__      `python -m sweeps`
"""
