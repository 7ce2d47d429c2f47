"""``python -m gdbserver`` is ``stm32-gdbserver``."""

from gdbserver.cli import main

main()
