"""Autoencoders, whose latents are what latent diffusion diffuses: trained here, or published."""
