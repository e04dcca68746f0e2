"""How many examples hypothesis draws for a law: few and always the same in `make test`, many and new ones in -all.

The former so that a change passes or fails for what it changes, the latter so that laws are tried on ever new cases.
"""

from hypothesis import settings

settings.register_profile("quick", max_examples=25, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=200, deadline=None)
settings.load_profile("quick")
