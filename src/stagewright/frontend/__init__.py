"""A Dockerfile, build arguments and a platform become a graph and an image config."""
