"""Feature files of a dataset: extracted from its media, or imported from published arrays."""
