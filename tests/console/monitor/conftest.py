"""Gateways with agents behind them."""

from tests.console.enrolled import lyon_agent, paris_agent, sent, start_agent

__all__ = ["lyon_agent", "paris_agent", "sent", "start_agent"]
