"""Training loops: optimisers, early stopping, checkpoints, exact resume."""
