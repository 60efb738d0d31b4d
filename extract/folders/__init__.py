"""Folders of media files: which file is whose, which are passed over, and how a changed one is told."""
