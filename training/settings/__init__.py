"""The settings of a run by name: one list of them for YAML, command line and documentation. Start at `keys`."""
