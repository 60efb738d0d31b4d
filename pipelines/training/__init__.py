"""Training: the loop with early stopping and exact resume, its settings, optimisers and checkpoints."""
