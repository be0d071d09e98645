"""Shortest paths through random mazes."""
