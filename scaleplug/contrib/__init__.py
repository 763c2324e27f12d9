"""Web frameworks: each in an adapter of its own, with its extra."""
