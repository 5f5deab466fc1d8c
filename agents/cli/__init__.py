"""The command lines of a gateway: ``vpn-agent``, and ``ike`` and ``ipsecstat`` for those who know them from AIX.

All read ``agentd.sock``; nothing here decides anything about tunnels.
"""
