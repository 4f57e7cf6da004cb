"""Many experiments: sweeps over methods and settings. Builds on `pipeline`, nothing on it.

sweep       `spire sweep`, from the settings to the outcome; read it first
space, conf/   the YAML file, and the trials that it comes to
plan        what each trial asks of the cluster
tuning      Ray Tune runs them; trial, share   one of them; ledger   what became of each
cli, outcome_text   what a user types and sees

report      `spire report`, from the tracking store to the pages; read it first
report_groups, report_stats   runs by method, setting and seed; means, intervals, pairs
report_tables, report_pairs, report_facts   what is said
report_figures, report_series   what is drawn; report_planes, report_epochs   both
report_files, report_page   what is written
"""
