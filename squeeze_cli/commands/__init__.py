"""The commands: parse, make a configuration, make one call, print."""
