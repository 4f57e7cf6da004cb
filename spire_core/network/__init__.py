"""The network: a U-Net, and all its weights as one vector.

unet             the U-Net with scale/shift conditioning and the entrance of the client embedding
layers           its layers in a form that computes faster than the textbook's
words            captions as integers of a published vocabulary
captions         the encoders of captions
pretrained       a pre-trained network behind the same interface, with the entrance
adapters         LoRA and scale factors beside a network's layers
diffusers_names  a client inside the U-Net's own numbers, by the names of diffusers
flat_model       the network over one flat vector, ordered by part; initial weights
grouped_layers   the networks of several clients computed as one
"""
