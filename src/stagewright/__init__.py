"""Stagewright builds container images from multi-stage Dockerfiles."""

__version__ = "0.1.0"
