"""Files: atomic writes, damage, paths.

atomic      atomic and durable files, locks, the error of a full disk
damage      errors of damaged files as one sentence
json_files  JSON objects in files
run_format  the number of the format of a run's files
tensors     safetensors files that carry their own hash
masking     secrets in addresses and texts, masked
paths       paths in a Ray job
revision    the commit of the code
background  work in a thread that no process waits for
"""
