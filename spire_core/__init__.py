"""The algorithm: diffusion models whose backbone is shared and whose embeddings stay with clients.

methods      each method as a record: parts that are shared, private, trained on a new client
config/      settings of the algorithm, one file for each group
pretrained/  pre-trained models in the folders of diffusers
network/     the U-Net and the flat vector of its weights
diffusion/   noise, loss, samplers and generated images
partition/   the split of a data set over clients
training/    local gradient steps and the held-out loss
federated/   a round: client, messages, server
adaptation/  the fit of a new client
evaluation/  KID, feature extractors and other scores of images
privacy/     privacy accounting and secret noise; leaks and attacks as numbers
mixture/     Gaussian mixtures with exact solutions, for the theory
weights/     weights of the classifiers behind KID
plugins      methods, data sets and metrics of other packages, by name
rng          random streams by seed, purpose and counters
errors       the errors raised on purpose
"""
