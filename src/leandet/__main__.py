"""`python -m leandet`: the command line, where its script is not on the path."""

from leandet.cli.app import main

if __name__ == "__main__":
    main()
