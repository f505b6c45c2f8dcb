"""What an experiment is: the typed schema, the names of parts, and every default."""
