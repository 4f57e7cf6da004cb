"""Checkpoints: the state from which an interrupted run continues.

snapshots         checkpoints on disk: write, verify, recycle
checkpointer      checkpoints during a run, and the return to one
manifest          the list of a checkpoint's files, with hashes
evaluation_store  finished evaluations on disk
remote            a copy on S3 or another storage
restore           the way back of a run from such a copy
storage           such storages, and the only import of its file systems
"""
