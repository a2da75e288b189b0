"""Monitors on sockets, HMP and QMP: listeners, connections, and the loop that serves them."""
