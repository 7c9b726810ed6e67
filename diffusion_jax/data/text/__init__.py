"""Texts: tokenizers, their vocabularies, templates of captions, and the one reader of text files."""
