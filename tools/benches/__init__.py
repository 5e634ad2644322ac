"""The sections of tools/bench, one file each, and what they share."""
