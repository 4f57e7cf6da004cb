"""Files: atomic writes, damage, paths.

atomic      files that are complete or absent; locks, free space
damage      errors of damaged files as one sentence
json_files  JSON objects in files
masking     passwords in addresses, masked
paths       paths in a Ray job
revision    the commit of the code
"""
