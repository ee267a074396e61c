"""`python -m expreg` is `expreg`."""

from expreg.cli import main

if __name__ == "__main__":
    main()
