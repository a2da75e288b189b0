"""A real Linux kernel: User-Mode Linux."""
