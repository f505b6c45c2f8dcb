"""Tables and figures of results that are computed elsewhere."""
