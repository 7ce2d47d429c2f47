"""Changing flash: plan, diff, and the drivers that carry it out.  Blocking."""
