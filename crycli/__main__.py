"""`python -m crycli`."""

from crycli.cli import main

main()
