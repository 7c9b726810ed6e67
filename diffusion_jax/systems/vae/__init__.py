"""Autoencoders, whose latents are what latent diffusion diffuses: published ones, ready to be used."""
