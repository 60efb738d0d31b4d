"""One file per dataset layout: each says whether a folder is of its kind and reads it."""
