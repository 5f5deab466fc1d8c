"""Packet captures of tunnels: what to look at, where, how it is written down, and who keeps the files."""
