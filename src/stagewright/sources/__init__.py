"""Where inputs come from: the build context, images."""
