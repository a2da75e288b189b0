"""The monitor without input or output: a line in, text or a wait out."""
