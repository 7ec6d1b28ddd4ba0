"""The flight recorder: the last residual rows, and captures of them."""
