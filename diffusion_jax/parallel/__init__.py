"""Meshes of devices, and which array lies where on them."""
