"""Definition of an experiment: the typed schema, the names of parts, and every default."""
