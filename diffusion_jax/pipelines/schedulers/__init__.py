"""diffusers' schedulers: their configs' fields, tables of betas and grids, and the solvers of this library that they are."""
