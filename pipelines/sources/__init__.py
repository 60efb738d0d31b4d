"""What a run is made from: which encoder made its features, with which weights, and whether the dataset has changed."""
