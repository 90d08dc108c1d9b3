"""Ways in from outside: the command line, and what people look at."""
