"""The monitor typed at a terminal: the prompt, what is printed above it, and the terminal's own settings."""
