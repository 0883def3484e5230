"""Runs one build step's process in its own namespaces: mounts, caches, secrets, SSH agents, network, seccomp."""
