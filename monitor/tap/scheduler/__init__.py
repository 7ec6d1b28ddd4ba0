"""What the tap does beside vLLM's scheduler, in the process of the engine core."""
