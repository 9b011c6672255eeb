"""Find, replace and measure modules of a network."""
