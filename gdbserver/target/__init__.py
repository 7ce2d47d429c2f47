"""The machine being debugged.  Blocking, and the only caller of pyOCD."""
