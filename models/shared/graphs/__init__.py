"""What recommenders on graphs share: sparse products, and propagation between users and items."""
