"""Interactions: readers, vocabularies, splits and batches."""
