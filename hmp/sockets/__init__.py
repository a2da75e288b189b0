"""Monitors on sockets, HMP and QMP: who listens, who is connected, and the loop that serves them."""
