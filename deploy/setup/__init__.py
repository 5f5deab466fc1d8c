"""What a fresh machine needs before the product, its tests and its demo run."""
