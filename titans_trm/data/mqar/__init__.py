"""Multi-query associative recall: many keys bound to values, asked for later."""
