"""Models for the files beside it, declared as a careful user would."""

from __future__ import annotations

from typing import Any

from peewee import DateTimeField, ForeignKeyField, IntegerField, TextField

from async_peewee import AsyncManyToManyQuery, AsyncModel, AsyncModelSelect, AsyncSqliteDatabase, blocking

db = AsyncSqliteDatabase("app.db", pool_size=4, pragmas={"cache_size": -64000})


class Base(AsyncModel):
    class Meta:
        database = db


class User(Base):
    name = TextField(unique=True)
    age = IntegerField(null=True)

    # What Peewee adds by name, a class body may announce.
    tweets: AsyncModelSelect[Tweet]
    groups: AsyncManyToManyQuery[Group]

    @blocking
    def rename(self, name: str, *, keep: bool = False) -> int:
        return 0 if keep else User.update(name=name).execute()

    @classmethod
    @blocking
    def busiest(cls, count: int) -> list[User]:
        return list(cls.select().limit(count))


class Tweet(Base):
    user = ForeignKeyField(User, backref="tweets")
    editor = ForeignKeyField(User, null=True)
    text = TextField()
    created = DateTimeField()

    user_id: int

    # An override runs on the worker as a whole; @blocking tells so to the checkers.
    @blocking
    def save(self, force_insert: bool = False, only: Any = None) -> int:
        return super().save(force_insert, only)

    @classmethod
    def create(cls, **query: Any) -> Tweet:
        return super().create(**query)


class Group(Base):
    name = TextField()

    # Any, which fits both places, does as well as @blocking.
    def save(self, *args: Any, **kwargs: Any) -> Any:
        return super().save(*args, **kwargs)
