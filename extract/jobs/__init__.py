"""From a catalog and encoders to feature files: options, batches, shards, and many workers at once."""
