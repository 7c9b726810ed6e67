"""What is trained and sampled as one thing."""
