"""What the monitor's commands do. A module is imported when the first of its commands runs."""
