"""A vhost-user backend: the guest of another VMM drives the device."""
