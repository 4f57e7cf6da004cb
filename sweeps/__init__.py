"""Many experiments: sweeps over methods and settings. Builds on `pipeline`, nothing on it.

report      `spire report`, from the tracking store to the pages; read it first
report_groups, report_stats   runs by method, setting and seed; means, intervals, pairs
report_tables, report_pairs, report_facts   what is said
report_figures, report_series   what is drawn
report_files, report_page   what is written
"""
