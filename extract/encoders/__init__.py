"""Encoders turn media into vectors: their contract, one entry for each, their weights, and how to cut them."""
