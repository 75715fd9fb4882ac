"""Passing weights on: one file, an endpoint of one's own, repositories on the Hub."""
