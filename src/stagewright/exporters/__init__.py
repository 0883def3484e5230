"""What becomes of a result: an image in the store or a registry, an archive, a folder, a tar."""
