"""Encoders that train inside a recommender: how they are loaded, cut and set up, and what they read."""
