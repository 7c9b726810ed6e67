"""Diffusion models as something to train, to load and to sample from."""
