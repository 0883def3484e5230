"""Which key has which result, the folders that cache mounts keep, and locks between builds."""
