"""What is known about a trained SAE: figures on held-out data, written beside it. Start at `card`."""
