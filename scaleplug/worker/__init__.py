"""The container's side: what runs in a process that takes inputs of one function."""
