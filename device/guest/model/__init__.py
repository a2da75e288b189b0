"""Modelled guests: a kernel's memory, a balloon driver, faults that compose."""
