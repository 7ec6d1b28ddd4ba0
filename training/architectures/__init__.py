"""Trainable SAEs: one file per architecture, all behind `training.architectures.registry`."""
