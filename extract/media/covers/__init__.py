"""Covers: a picture file as upright RGB pixels, each mode by its own rule, and damage told where a format shows it."""
