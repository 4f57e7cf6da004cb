"""Files that are written atomically and read with a check; paths and addresses."""
