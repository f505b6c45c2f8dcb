"""One file a subcommand: parse, make a configuration, make one call, print."""
