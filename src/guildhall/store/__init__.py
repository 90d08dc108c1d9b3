"""Ordered keys and transactions. Knows no lock and no task."""
