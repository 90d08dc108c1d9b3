"""Ops: pure functions over a transaction, one noun a file, and one fair wait queue under all that blocks."""
