"""Settings of the algorithm: frozen records with ranges and defaults, one file for each group.

model      `model.*`: the network
diffusion  `diffusion.*`: schedule, prediction, sampler
partition  `partition.*`: the split over clients
method     `method.*`: the method and its local layers
client     `client.*`: local training, and the engine that suits a network
server     `server.*`: aggregation, server optimizer, moving average
adapt      `adapt.*`: the fit of new clients
privacy    `privacy.*`: differential privacy
eval       `eval.*`: evaluations
checks     ranges and choices, declared with a setting's type
"""
