"""A round of federated training: the client's side, the messages and the server's side.

participation       the cohort of a round, its drop-outs
messages            the records that travel: plan, broadcast, update
private_state       the part of a model that stays with its client
client              a client's round, from the broadcast to its update
client_group        the same for several clients as one computation
compression         an update in fewer bytes, with error feedback
update_checks       faults of an update, found before the average
exact_sum           weighted sums whose bits depend on neither order nor grouping
accumulation        a round's updates, accumulated where they arrive, and their mean
server              the server's state and its step
private_updates     clipped updates as integers, and the noise of their sum
integer_updates     updates as integers, and their sum modulo 2^64
"""
