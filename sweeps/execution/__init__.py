"""The execution of a sweep: trials on Ray Tune."""
