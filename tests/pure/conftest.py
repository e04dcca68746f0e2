"""How many examples hypothesis draws for a law: few in `make test`, many in `make test-all`."""

from hypothesis import settings

settings.register_profile("quick", max_examples=25, deadline=None)
settings.register_profile("thorough", max_examples=200, deadline=None)
settings.load_profile("quick")
