"""The door: HTTP calls into turns, ratings and reports, and back."""
