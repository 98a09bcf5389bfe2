"""Peewee's classes, awaited."""
