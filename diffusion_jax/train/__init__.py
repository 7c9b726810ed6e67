"""Training: one state, one step, one loop, whatever the loss."""
