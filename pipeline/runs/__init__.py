"""The folder of a run: names and formats of its files.

layout        the names of all files and folders
record        the record by which a run is found
noise_key     the key of private noise
mask_key      the key behind the masks of secure sums
key_file      a secret key as a file
folder        lock and result file of a run
start         configuration and data hashes at the start of a run
server_state  the server's state as a file
model_files   backbone and clients' own parts of a finished run
"""
