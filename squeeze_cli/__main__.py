"""squeeze on the command line as `python -m squeeze_cli`."""

from squeeze_cli.cli import main

if __name__ == "__main__":
    main()
