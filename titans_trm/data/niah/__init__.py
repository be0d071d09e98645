"""Single needle in a haystack of bytes: one fact, asked for at the end."""
