"""What the sidecar counts, and how it is read."""
