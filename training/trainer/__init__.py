"""Training of sparse autoencoders on rows from a cache, a stream or memory. Start at `train`."""
