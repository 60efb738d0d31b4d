"""Full ranking of all items for every user, its metrics, and groups of users."""
