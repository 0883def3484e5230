"""Says how long ago a date was."""
