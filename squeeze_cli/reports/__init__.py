"""Reports show, they do not compute: rich tables, and figures."""
