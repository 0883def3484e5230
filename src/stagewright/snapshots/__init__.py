"""Filesystem layers as folders: overlay mounts, the snapshot store, and layer archives in and out of it."""
