"""The sweeps of tools/torture, one file a subject."""
