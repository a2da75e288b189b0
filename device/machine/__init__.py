"""Clock, memory, device, guest and run state in one machine; requests, history and snapshots."""
