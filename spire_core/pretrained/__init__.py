"""Pre-trained models: folders of the library diffusers, read and written, and sentence encoders."""
