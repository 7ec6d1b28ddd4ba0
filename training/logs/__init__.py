"""Where the figures of a training go: JSON lines, TensorBoard, Weights & Biases."""
