"""Where users' functions run."""
