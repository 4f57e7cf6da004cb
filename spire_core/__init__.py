"""The algorithm: torch, numpy, and one library each for KID, weights and the threads of BLAS.

No Ray, MLflow, configuration files or printing.

Nothing is imported here, and a module imports torch only if it computes. Read in this order:
    methods     what distinguishes SPIRE from the methods it is compared with, as records
    model_config, training_config   what can be set, its ranges, and what follows from it alone
    unet, flat  the network, and the flat vector that its weights live in
    schedule, samplers   the diffusion process: noising, loss, generation
    training    gradient steps of one client; client: one client's round
    rounds      what passes between server and clients; compression: in fewer bytes
    participation, faults, means, server   who answers, which updates are fit, how they become one
    grouped, group_training   several clients' separate networks computed as one
    adapt       a new client fits its own part; adapt_together: many at once, embeddings alone
    evaluate    images drawn as a client, and the loss on images it never saw
    kid, extractor, classifier, metrics, selftest   scores, the features compared, and their check
    partition, partition_schemes   who holds which images
    gmm, gmm_*  Gaussian mixtures, where all of this can be solved exactly (docs/theory.md)
    secure_sum  a mean that nobody sees the parts of; rng: every draw by its purpose; errors
"""
