"""What long jobs need: storage, processes, atomic files, locks, and torch's modes."""
