"""Recipes: their sections and strict loading, variations along axes, and groups of recipes."""
