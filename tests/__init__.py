"""All tests."""

from hypothesis import settings

# How long one example takes says how loaded the machine is, and pytest-timeout sees what hangs.
settings.register_profile("hmp", deadline=None)
settings.load_profile("hmp")
