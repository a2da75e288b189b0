"""A guest that breaks the rules of virtio."""
