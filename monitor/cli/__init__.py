"""The `featurewatch` command: one file per sub-command."""
