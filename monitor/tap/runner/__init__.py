"""The one place that knows the insides of vLLM's model runners."""
