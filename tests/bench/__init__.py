"""Speed beside the real QEMU, beside what a user would take instead, and beside the limit: `make bench`.

`turns` measures, one turn after another; `start`, `pipe`, `sockets`, `many`, `casts` and `attached` say what;
`programs` and `others` are what is measured; `page` makes docs/benchmarks.md and its plots of what was found.
"""
