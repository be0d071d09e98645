"""Stories of people and things that move, hidden in prose, after the first three bAbI tasks."""
