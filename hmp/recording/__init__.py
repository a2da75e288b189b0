"""Sessions recorded as asciicasts, typed or from a script; and casts drawn as pictures."""
