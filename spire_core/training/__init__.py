"""Local training: gradient steps of one client.

context         a client: its id, the seed and its images
batches         a client's images in batches
fit             the objective, the training step and the loop over batches
proximal        the proximal term of FedProx
penalty         a method's own term, differentiated by torch
adam            Adam whose moments are values
heldout         the loss on images that a client has not trained on
fixed_entrance  an embedding's entrance to a pre-trained network, without rounds
"""
