"""Two or more engines, a clock and a bad network, in memory."""
