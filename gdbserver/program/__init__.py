"""What a program's ELF file knows: names, source lines, and how to walk its stack."""
