"""Recipes drafted for a dataset: its facts, the feature files that fit it, sizes that suit it, and the text."""
