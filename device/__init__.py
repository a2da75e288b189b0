"""A virtio-balloon device core that knows nothing of terminals, sockets, threads or event loops."""
