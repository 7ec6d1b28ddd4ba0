"""The one-layer setting of Towards Monosemanticity: a small transformer, its MLP activations, SAEs of 512 -> 4,096."""
