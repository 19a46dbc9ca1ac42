"""`hypernode doctor`: what works from here and what does not, as a list of checks."""
