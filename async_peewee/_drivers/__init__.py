"""A connection, per database."""
