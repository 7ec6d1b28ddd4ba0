"""From labelled prompts and an SAE to probes, thresholds and a policy file. Start at `discover`."""
