"""Times networks and layers against other runtimes: one timer, every contestant in a process of its own."""
