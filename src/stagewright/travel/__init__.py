"""Caches that travel: what a build knows and made, exported for other machines and imported from them."""
