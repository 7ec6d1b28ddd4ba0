"""BatchTopK training of sparse autoencoders from an activation cache. Start at `train`."""
