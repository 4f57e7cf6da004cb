"""A round of federated training: the client's side, the messages and the server's side.

participation       the cohort of a round, its drop-outs
messages            the records that travel: plan, broadcast, update
private_state       the part of a model that stays with its client
client              a client's round, from the broadcast to its update
client_group        the same for several clients as one computation
compression         an update in fewer bytes, with error feedback
exact_sum           weighted sums whose bits depend on neither order nor grouping
sums                a round's updates, added up where they are made, and their mean
server              the server's state and its step
private_updates     clipped updates as integers, and the noise of their sum
"""
