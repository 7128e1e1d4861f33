"""``python -m rasterloom``."""

from rasterloom.cli import main

if __name__ == "__main__":
    main()
