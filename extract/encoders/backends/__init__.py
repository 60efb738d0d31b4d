"""One small loader per library; each imports its library only when called."""
