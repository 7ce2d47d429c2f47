"""Facts about the silicon, and no behaviour: shared by the real side and the simulated board."""
