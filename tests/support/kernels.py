"""What tests ask of the memory of a modelled kernel."""

from __future__ import annotations

from device.guest.model.kernel import Kernel
from device.virtio.spec import PAGE_SHIFT


def floor_of(ram: int) -> int:
    """Return the bytes of RAM that stay outside the balloon of a guest with `ram` bytes, however much is asked for."""
    kernel = Kernel(ram)
    return kernel.reserved + kernel.free_min + kernel.cache_min + kernel.used_min


def inflatable(kernel: Kernel) -> int:
    """Return how many pages `kernel.inflate` could still get, by all means. At 0, the floor, the driver only retries."""
    hidden = kernel.used - kernel.used_min
    if kernel.deflate_on_oom:
        hidden = min(hidden, kernel.swap_total - kernel.swap_used)
    return (kernel.free - kernel.free_min + kernel.cache - kernel.cache_min + hidden) >> PAGE_SHIFT
