"""What turns media into vectors: the contract of an encoder, one entry each, their weights, and how they are cut."""
