"""Scores of an experiment, computed from numbers alone; no file is read or written.

scores      KID, classes and losses of pre-training clients; cross-client matrices
forgetting  forgetting curves of new clients
diagnosis   rules that recognise known failures, with advice
"""
