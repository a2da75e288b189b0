"""A virtio device and its queues; no word about balloons."""
