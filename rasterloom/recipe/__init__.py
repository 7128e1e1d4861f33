"""Recipe: one YAML file that describes a corpus and the training on it.

Each section is the config of one kind of step, and every field of it is part of that step's identity:
change a field and the step, and what follows from it, runs again. What only changes *how fast* a step
runs stands in ``run``, which is part of no identity.
"""
