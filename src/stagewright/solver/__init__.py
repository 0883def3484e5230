"""Runs a graph: cache keys, scheduling, deduplication, cancellation, progress."""
