"""The audit of a finished run: what its messages and its adapted models give away.

audit              an audit from a run's folder to its outcome
round_messages     a round simulated from the finished state: the messages, and the truth
embedding_attacks  embeddings computed from these messages
embedding_search   the embedding whose conditioning vectors explain a message best
membership         attacks on the training images of adapted clients
image_scores       scores of single images that these attacks compare
outcome            the numbers of an audit: metrics, tables, JSON
recording          an outcome in the run's folder and in its tracking store
"""
