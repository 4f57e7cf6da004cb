"""Pre-trained models: diffusion models in folders of the library diffusers, sentence encoders.

folder          what a folder holds, its hash, and why one is refused
networks        classes of networks, and where each reads its conditions
loading         its network, read by diffusers and checked, and its prompt
schedule        its noise schedule and prediction type
quiet           diffusers' warnings kept back while a network is loaded
trial           whether its settings fit each other, and the images
latents         its autoencoder: images as latents, and back
own_folder      SPIRE's own U-Net as such a folder
spire_unet      that U-Net as a class of diffusers' kind; the folder gets a copy of the file
spire_pipeline  its way through the timesteps as a pipeline of diffusers, copied too
sentences       a frozen sentence encoder: captions as vectors
"""
