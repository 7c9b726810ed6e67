"""What is read: sources of examples by index, one kind a file."""
