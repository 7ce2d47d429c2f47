"""The conversation with GDB.  The only async package."""
