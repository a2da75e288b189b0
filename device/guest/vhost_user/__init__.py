"""A vhost-user backend: the guest of another VMM behind the device."""
