"""Commands that measure what the documents state; each file's first lines say what it measures and how to run it."""
