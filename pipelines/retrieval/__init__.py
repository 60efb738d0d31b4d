"""Top-k retrieval with FAISS: items for users from a run, and similar items from a feature file."""
