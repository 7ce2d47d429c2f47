"""A GDB server for STM32H743 boards with programs in internal flash and QSPI NOR."""
