"""What images are made of: the files of their layers and their packages, and how two images differ."""
