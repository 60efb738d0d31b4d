"""Jobs: one run at a time on one feature file, and what is known of sources whose date has changed."""
