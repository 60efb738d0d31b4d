"""Datasets: readers, filters, splits, vocabularies, side features, reports, and a synthetic corpus."""
