"""The GDB remote serial protocol, pure: bytes <-> values."""
