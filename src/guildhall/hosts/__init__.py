"""Where the ops of a hall run, and how a caller sleeps until woken."""
