"""Encoders that train inside a recommender: loaded, cut, set up, and what they read."""
