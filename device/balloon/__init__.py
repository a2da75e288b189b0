"""The balloon device: its queues, its statistics and the pages in it. It does not depend on machines."""
