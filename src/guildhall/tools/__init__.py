"""Ways in from outside: what people look at."""
