"""Advice on Dockerfiles beyond BuildKit's checks: what makes images larger, slower to build or less safe."""
