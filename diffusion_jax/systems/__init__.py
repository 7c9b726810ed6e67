"""What is trained and sampled as one thing: a folder a system; `systems.table` is the one table of them."""
