"""The build graph as pure data: everything above produces it, everything below runs it."""
