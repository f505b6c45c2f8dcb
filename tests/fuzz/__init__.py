"""Files and command lines at random, and files that are made to deceive."""
