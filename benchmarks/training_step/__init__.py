"""One optimisation step, ours and the peers', on the same rows from the same weights."""
