"""Local training: gradient steps of one client.

fit      batches, the training step and the loop over them
adam     Adam whose moments are values
heldout  the loss on images that a client has not trained on
"""
