"""Power control (PWR): supply, voltage scaling, backup domain.  RM0433, "Power control (PWR)".

Only what programs wait for: ready bits rise a little after what they confirm was asked for.
No voltage limits any frequency here.
"""

from __future__ import annotations

from collections.abc import Callable

from gdbserver.sim.clock import MICROSECOND, Clock
from gdbserver.sim.registers import (
    BitsInteger,
    BitStruct,
    Fields,
    Flag,
    Padding,
    Peripheral,
    Register,
    Unmodelled,
    on_write,
)

SETTLING = 20 * MICROSECOND  # of the core's supply; not published


class Pwr(Peripheral):
    """The power controller of a chip that is supplied by its LDO.

    The supply is configured by one write to CR3 after power-on; what follows is ignored, and
    voltage scaling is not ready before it.
    """

    CR1 = Register(
        0x00,
        BitStruct(
            Padding(13),
            Unmodelled("ALS", 2),
            Unmodelled("AVDEN"),
            Unmodelled("SVOS", 2),
            Padding(4),
            Unmodelled("FLPS"),
            "DBP" / Flag,
            Unmodelled("PLS", 3),
            Unmodelled("PVDE"),
            Padding(3),
            Unmodelled("LPDS"),
        ),
        reset=0xF000C000,
    )
    CSR1 = Register(
        0x04,
        BitStruct(
            Padding(15),
            Unmodelled("AVDO"),
            "ACTVOS" / BitsInteger(2),
            "ACTVOSRDY" / Flag,
            Padding(8),
            Unmodelled("PVDO"),
            Padding(4),
        ),
        reset=0x00004000,
        writable=0,
    )
    CR2 = Register(
        0x08,
        BitStruct(
            Padding(8),
            Unmodelled("TEMPH"),
            Unmodelled("TEMPL"),
            Unmodelled("VBATH"),
            Unmodelled("VBATL"),
            Padding(3),
            "BRRDY" / Flag,
            Padding(11),
            Unmodelled("MONEN"),
            Padding(3),
            "BREN" / Flag,
        ),
        writable=0x00000011,
    )
    CR3 = Register(
        0x0C,
        BitStruct(
            Padding(5),
            "USB33RDY" / Flag,
            Unmodelled("USBREGEN"),
            "USB33DEN" / Flag,
            Padding(14),
            Unmodelled("VBRS"),
            Unmodelled("VBE"),
            Padding(5),
            "SCUEN" / Flag,
            "LDOEN" / Flag,
            "BYPASS" / Flag,
        ),
        reset=0x00000006,
        writable=0x03000300,
    )
    CPUCR = Register(
        0x10,
        BitStruct(
            Padding(20),
            Unmodelled("RUN_D3"),
            Padding(1),
            Unmodelled("CSSF"),
            Unmodelled("SBF_D2"),
            Unmodelled("SBF_D1"),
            Unmodelled("SBF"),
            Unmodelled("STOPF"),
            Padding(2),
            Unmodelled("PDDS_D3"),
            Unmodelled("PDDS_D2"),
            Unmodelled("PDDS_D1"),
        ),
        writable=0x00000807,
    )
    D3CR = Register(
        0x18,
        BitStruct(Padding(16), "VOS" / BitsInteger(2), "VOSRDY" / Flag, Padding(13)),
        reset=0x00004000,
        writable=0x0000C000,
    )
    WKUPCR = Register(0x20, BitStruct(Padding(26), Unmodelled("WKUPC", 6)), writable=0)
    WKUPFR = Register(0x24, BitStruct(Padding(26), Unmodelled("WKUPF", 6)), writable=0)
    WKUPEPR = Register(
        0x28,
        BitStruct(
            Padding(4),
            Unmodelled("WKUPPUPD", 12),
            Padding(2),
            Unmodelled("WKUPP", 6),
            Padding(2),
            Unmodelled("WKUPEN", 6),
        ),
    )

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changes = 0
        super().__init__("PWR")

    def reset(self, *, power_on: bool = True) -> None:
        """A reset; the supply's configuration and the backup regulator last until power goes."""
        kept = [] if power_on or not self._values else [self.CR2, self.CR3]
        values = {register: self.raw(register) for register in kept}
        self._changes += 1
        super().reset()
        for register, value in values.items():
            self.set_raw(register, value)
        if values:
            self._settle()

    @property
    def backup_access(self) -> bool:
        """CR1.DBP: whether the backup domain can be written."""
        return bool(self[self.CR1].DBP)

    @property
    def configured(self) -> bool:
        """Whether the supply was configured since power-on."""
        return not self[self.CR3].SCUEN

    def _later(self, action: Callable[[], None]) -> None:
        """After the supply has settled, unless there is a reset or another change before."""
        self._changes += 1
        change = self._changes

        def settled() -> None:
            if change == self._changes:
                action()

        self._clock.after(SETTLING, settled)

    def _settle(self) -> None:
        self.update(self.D3CR, VOSRDY=0)
        self.update(self.CSR1, ACTVOSRDY=0)
        self._later(self._settled)

    def _settled(self) -> None:
        self.update(self.D3CR, VOSRDY=1)
        self.update(self.CSR1, ACTVOSRDY=1, ACTVOS=self[self.D3CR].VOS)

    @on_write(CR3)
    def _configure_supply(self, cr3: Fields) -> None:
        self.store(cr3)
        self.update(self.CR3, USB33RDY=cr3.USB33DEN)
        if not self.configured:
            self.update(self.CR3, SCUEN=0, LDOEN=cr3.LDOEN, BYPASS=cr3.BYPASS)
            self._settle()

    @on_write(D3CR)
    def _scale_voltage(self, d3cr: Fields) -> None:
        old = self[self.D3CR].VOS
        self.store(d3cr)
        if self.configured and old != d3cr.VOS:
            self._settle()

    @on_write(CR2)
    def _control_backup_regulator(self, cr2: Fields) -> None:
        self.store(cr2)
        self.update(self.CR2, BRRDY=cr2.BREN)
