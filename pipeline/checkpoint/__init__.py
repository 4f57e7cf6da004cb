"""Checkpoints: the state from which an interrupted run continues.

snapshots         checkpoints on disk: write, verify, recycle
checkpointer      checkpoints during a run, and the return to one
evaluation_store  finished evaluations on disk
remote            a copy on S3 or another storage
"""
