"""Privacy as numbers: what messages and models give away, and how much an attack proves.

leak        embeddings computed from a client's message, and from a sum of messages
membership  attacks on single images: area under the curve, hits at few false alarms
one_run     a lower bound on epsilon from one training run
"""
