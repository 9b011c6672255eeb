"""Run the command line as `python -m foldflat`."""

from foldflat.cli import main

if __name__ == "__main__":
    main()
