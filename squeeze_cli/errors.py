"""The two errors that a user can see: each is one line that names the mend."""


class SqueezeError(Exception):
    """Something that the user can mend; ends the command with exit status 1."""

    exit_code = 1


class UsageError(SqueezeError):
    """A command line or configuration that means nothing; ends the command with exit status 2."""

    exit_code = 2
