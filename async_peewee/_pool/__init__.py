"""Threads that run jobs; they know callables, not Peewee."""
