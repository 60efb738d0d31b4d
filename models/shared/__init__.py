"""What recommenders share: their contract, the contract of item representations, losses, samplers, graphs, layers."""
