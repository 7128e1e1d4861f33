from hypothesis import settings

# A deadline would time the machine, not the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
