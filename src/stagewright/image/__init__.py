"""OCI and Docker image formats as data: config, manifest, index, descriptor, platform, media types."""
