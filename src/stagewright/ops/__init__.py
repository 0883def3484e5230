"""How one vertex runs: source, exec, file, merge."""
