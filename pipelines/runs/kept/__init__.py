"""What a run keeps so that it can be used elsewhere and later: its data, and its vectors."""
