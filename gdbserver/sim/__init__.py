"""The simulated board: STM32H743 + QSPI NOR below a pyOCD probe, on a virtual clock."""
