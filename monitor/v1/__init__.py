"""Generated from `proto/monitor/v1` by `make proto`; do not edit."""
