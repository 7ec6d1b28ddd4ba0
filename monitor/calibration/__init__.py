"""Thresholds for a promised rate of false alarms, and whether a policy still keeps its own. Pure: scores in, figures
out."""
