"""Readers of the files that public SAEs come in, one module per family, into the normal form."""
