"""datafile."""
