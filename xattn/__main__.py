"""`python -m xattn` is `xattn`."""

from xattn.cli import main

main()
