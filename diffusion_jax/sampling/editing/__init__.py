"""Editing with a trained model: inversion, image to image, inpainting, inverse problems."""
