"""Recommenders: tensors in, vectors out. One paper, one file."""
