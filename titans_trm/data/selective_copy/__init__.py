"""Selective copying: remember the tokens among blanks and repeat them in order."""
