"""``python -m gdbserver`` is ``stm32-gdbserver``."""

from gdbserver.cli.main import main

main()
