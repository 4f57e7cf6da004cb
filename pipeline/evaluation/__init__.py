"""Scores of an experiment, computed from numbers alone; no file is read or written.

scores      KID, classes and losses of pre-training clients; cross-client matrices
forgetting  forgetting curves of new clients
controls    images that no fit to a new client has drawn, to be scored as if one had
diagnosis   rules that recognise known failures, with advice
"""
