"""Exchanges of IKEv1: Main and Aggressive Mode, Quick Mode, Informational."""
