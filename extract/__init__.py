"""Raw media to vectors: videos, covers and titles through frozen encoders into feature files."""
