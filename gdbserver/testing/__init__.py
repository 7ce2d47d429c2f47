"""Tests on the target: a GDB to drive, a server beside it, and pytest's fixtures for both."""
