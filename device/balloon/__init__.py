"""The balloon device: its queues, its statistics, the pages it holds; no word about machines."""
