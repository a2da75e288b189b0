"""A virtio device and its queues. It does not depend on balloons."""
