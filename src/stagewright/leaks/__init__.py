"""Looks for the values of secrets where they must not be: in what steps leave behind, and in images."""
