"""The list of recommenders, made of what their files declare."""
