"""Seeded mutation fuzzing of what reads octets from the network: ``python -m tests.fuzz --seconds N``."""
