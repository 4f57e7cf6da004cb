"""The diffusion process: from images to noise and back.

process     noise schedules, noising, training target and loss
samplers    DDPM, DDIM and DPM-Solver++ as one loop with weights
generation  images generated as one client or as several, with guidance
"""
