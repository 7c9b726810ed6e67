"""Solvers: a family a file, named as its paper or its users name it."""
