"""How the types in signatures are checked while tests run."""

from beartype import BeartypeConf, beartype

# As in PEP 484 and mypy: an int is good enough where a float is asked for.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
