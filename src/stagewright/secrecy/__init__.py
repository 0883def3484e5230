"""The looks that a secret's value can take on, and text without them."""
