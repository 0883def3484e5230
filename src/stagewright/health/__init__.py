"""Whether a state directory is whole, and what can be done where it is not."""
