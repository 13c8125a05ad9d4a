"""Runtime utilities: storage, processes, atomic writes, locks and torch's modes."""
