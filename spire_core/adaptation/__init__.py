"""The adaptation of new clients on a finished backbone.

adapt              one client: early stopping, curve, kept epoch
set_aside          the images that a fit steps on, and those that it sets aside for a choice
descent            a new client's steps, their rate and their mean
adapt_together     the embeddings of several clients in one batch
adapt_privately    the same with differential privacy, of embeddings and of larger parts
private_descent    one client's noisy steps
private_gradients  gradients of single images
one_release        one embedding for each image, and their noisy mean
public_clip        a clip norm without private images
"""
