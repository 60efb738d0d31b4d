"""What a recipe file may say: its sections, strict loading, variations of it, and collections of recipes."""
