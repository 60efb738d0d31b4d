"""Top-k retrieval with FAISS: items for users from a run, similar items from a feature file."""
