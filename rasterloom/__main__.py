"""Entry of ``python -m rasterloom``, and of a cluster's jobs."""

from rasterloom.cli.entry import main

if __name__ == "__main__":
    main()
