"""One file per subcommand: parse, make a configuration, make one call, print."""
