"""Sudoku of 4x4, 6x6 and 9x9 cells: configuration, rules, solver, generator, canonical form, files."""
