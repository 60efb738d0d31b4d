"""Finished runs as one HTML page: what they scored, what they offer to whom, what is near what, what made them."""
