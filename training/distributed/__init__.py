"""Training on several processes: rows shared out (data parallel) or latents shared out (sharded dictionaries)."""
