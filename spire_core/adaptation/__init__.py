"""The adaptation of new clients on a finished backbone.

adapt           one client: early stopping, curve, kept epoch
adapt_together  the embeddings of several clients in one batch
"""
