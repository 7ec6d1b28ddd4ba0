"""The same text through Hugging Face and vLLM: how far apart are the activations, and what an SAE sees of it."""
