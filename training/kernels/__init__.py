"""Products of matrices that are mostly zero: compiled for the CPU, and in plain torch for other devices."""
