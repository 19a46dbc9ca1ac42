"""`python -m hypernode` and the `hypernode` command."""

from hypernode.cli.entry import main

if __name__ == "__main__":
    main()
