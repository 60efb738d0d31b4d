"""Full ranking of every item for every user, its metrics, and groups of users."""
