"""Networks: the architectures, their parts, the heads, and building all of it from settings."""
