"""The policy file's fields, one block a class."""
