"""CLIP as something to train, to load and to ask."""
