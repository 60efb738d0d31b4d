"""Verbs that set up other programs for freezeframe: a shell that completes, an editor that checks recipes."""
