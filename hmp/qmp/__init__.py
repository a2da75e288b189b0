"""QMP without a socket: its JSON, its commands and events, and the schema that describes them."""
