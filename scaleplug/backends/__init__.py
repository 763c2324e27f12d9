"""What starts and stops containers: one adapter per file."""
