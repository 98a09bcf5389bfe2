"""What the relations of a model give, on every database: rows, references to them, and queries."""

from __future__ import annotations

from typing import Any

import peewee
import pytest

from async_peewee import AsyncSqliteDatabase, aio
from tests.support import Models, base_of, queries_of


async def test_foreign_keys(models: Models) -> None:
    """`aio(tweet.user)` is the row whether loaded or not, and one query in all; no row raises."""
    User, Tweet = models.User, models.Tweet
    huey = await User.create(name="Huey")
    created = await Tweet.create(user=huey, text="meow")
    assert created.user is huey
    tweet = await Tweet.get()
    assert tweet.user_id == huey.id
    statements = queries_of(models.database)
    assert (await tweet.user).name == (await aio(tweet.user)).name == tweet.user.name == "Huey"
    assert len(statements) == 1
    joined = await Tweet.select(Tweet, User).join(User).get()
    assert joined.user.name == "Huey"
    tweet.user = await User.create(name="Mickey")
    await tweet.save()
    assert (await (await Tweet.get()).user).name == "Mickey"
    tweet.user = 99
    with pytest.raises(User.DoesNotExist):
        await tweet.user


async def test_backrefs(models: Models) -> None:
    """A back-reference is an awaitable query."""
    huey = await models.User.create(name="Huey")
    for text in ("meow", "hiss", "purr"):
        await models.Tweet.create(user=huey, text=text)
    assert {tweet.text for tweet in await huey.tweets} == {"meow", "hiss", "purr"}
    assert [tweet.text async for tweet in huey.tweets.order_by(models.Tweet.text).limit(1)] == ["hiss"]
    assert await huey.tweets.where(models.Tweet.text == "meow").count() == 1


async def test_self_reference_and_alias(db: Any) -> None:
    """A nullable key to the same table: parent, children, a join by alias, and recursive deletion."""

    class Category(base_of(db)):
        name = peewee.CharField()
        parent = peewee.ForeignKeyField("self", null=True, backref="children")

    await Category.create_table()
    root = await Category.create(name="root")
    for name in ("a", "b"):
        await Category.create(name=name, parent=root)
    assert (await Category.get(name="root")).parent is None
    child = await Category.get(name="a")
    assert await child.parent == root
    assert sorted([child.name async for child in root.children]) == ["a", "b"]
    Parent = Category.alias()
    query = Category.select(Category, Parent).join(Parent, on=(Category.parent == Parent.id))
    assert sorted([(row.name, row.parent.name) for row in await query]) == [("a", "root"), ("b", "root")]
    assert await Parent.select(Parent.name).where(Parent.parent.is_null()).scalar() == "root"
    assert await root.delete_instance(recursive=True) == 1
    assert await Category.select().where(Category.parent.is_null()).count() == 2


async def test_a_foreign_key_as_primary_key(db: Any) -> None:
    """Such an instance is its key: as a value, in a condition and in relations, on the loop too."""
    Base = base_of(db)

    class User(Base):
        name = peewee.CharField()

        class Meta:
            table_name = "users"

    class Profile(Base):
        user = peewee.ForeignKeyField(User, primary_key=True, backref="profiles")
        bio = peewee.CharField()

    class Photo(Base):
        profile = peewee.ForeignKeyField(Profile, backref="photos")

    class Tag(Base):
        name = peewee.CharField()
        profiles = peewee.ManyToManyField(Profile, backref="tags")

    await db.create_tables([User, Profile, Photo, Tag, Tag.profiles.get_through_model()])
    await Profile.create(user=await User.create(name="Huey"), bio="a cat")
    profile, tag = await Profile.get(), await Tag.create(name="furry")
    statements = queries_of(db)
    await Photo(profile=profile).save()
    assert await profile.photos.count() == 1
    assert await Photo.select().where(Photo.id == profile).count() == 1
    assert [tag.name async for tag in profile.tags] == []
    profile.bio = "an old cat"
    assert await profile.save() == 1
    # Its own row was never loaded, not even in the middle of building other SQL.
    assert (len(statements), profile.__rel__) == (5, {})
    await Photo.create(profile=profile)
    assert await Photo.select().where(Photo.profile == profile).count() == 2
    profile = await Profile.get()
    await profile.tags.add(tag)
    assert [tag.name async for tag in profile.tags] == ["furry"]
    assert [profile.bio async for profile in tag.profiles] == ["an old cat"]
    assert await profile.delete_instance(recursive=True) == 1
    assert await Photo.select().count() == await tag.profiles.count() == 0


async def test_many_to_many(db: Any) -> None:
    """add, remove and clear from both sides, with rows, keys and queries; the through model is ours too."""
    Base = base_of(db)

    class Student(Base):
        name = peewee.CharField()

    class Course(Base):
        name = peewee.CharField()
        students = peewee.ManyToManyField(Student, backref="courses")

    Enrolment = Course.students.get_through_model()
    await db.create_tables([Student, Course, Enrolment])
    huey, mickey = [await Student.create(name=name) for name in ("Huey", "Mickey")]
    maths, art, music = [await Course.create(name=name) for name in ("Maths", "Art", "Music")]

    async def courses(student: Any) -> list[str]:
        return [course.name async for course in student.courses.order_by(Course.name)]

    await huey.courses.add([maths, art])
    await art.students.add(mickey)
    assert await courses(huey) == ["Art", "Maths"]
    assert await art.students.count() == 2
    await huey.courses.add(Course.select().where(Course.name == "Music"))
    assert await huey.courses.remove([maths, music]) == 2
    assert await huey.courses.remove(Course.select().where(Course.name == "Art")) == 1
    await huey.courses.add([music.id], clear_existing=True)
    assert await courses(huey) == ["Music"]
    assert await mickey.courses.clear() == 1
    assert [(row.student_id, row.course_id) for row in await db.run(lambda: list(Enrolment.select()))] == [
        (huey.id, music.id)
    ]


async def test_a_through_model_made_by_the_field_is_asynchronous(sqlite_db: AsyncSqliteDatabase) -> None:
    """It can be created, queried and dropped like any other model."""
    Base = base_of(sqlite_db)
    Student: Any = type("Student", (Base,), {"name": peewee.CharField()})
    Course: Any = type("Course", (Base,), {"students": peewee.ManyToManyField(Student, backref="courses")})
    await sqlite_db.create_tables([Student, Course])
    Enrolment = Course.students.get_through_model()
    await Enrolment.create_table()
    course = await Course.insert({}).returning(Course.id)
    await Enrolment.create(student=await Student.create(name="Huey"), course=course[0].id)
    assert [(row.student_id, row.course_id) async for row in Enrolment.select()] == [(1, 1)]
    assert (await (await Enrolment.get()).student).name == "Huey"


async def test_a_through_model_of_ones_own(sqlite_db: AsyncSqliteDatabase) -> None:
    """Declared before its tables by DeferredThroughModel, with a column more."""
    Base = base_of(sqlite_db)
    deferred = peewee.DeferredThroughModel()

    class Course(Base):
        name = peewee.CharField()

    class Student(Base):
        name = peewee.CharField()
        courses = peewee.ManyToManyField(Course, backref="students", through_model=deferred)

    class Enrolment(Base):
        student = peewee.ForeignKeyField(Student, backref="enrolments")
        course = peewee.ForeignKeyField(Course, backref="enrolments")
        year = peewee.IntegerField(default=2026)

    deferred.set_model(Enrolment)
    await sqlite_db.create_tables([Student, Course, Enrolment])
    student, course = await Student.create(name="Huey"), await Course.create(name="Maths")
    await student.courses.add(course)
    assert [student.name async for student in course.students] == ["Huey"]
    assert (await Enrolment.get()).year == 2026


async def test_a_deferred_foreign_key(db: Any) -> None:
    """Two models that point to each other: the key that comes late is awaitable as well."""
    Base = base_of(db)

    class Author(Base):
        name = peewee.CharField()
        favourite = peewee.DeferredForeignKey("Volume", null=True, backref="fans")

    class Volume(Base):
        title = peewee.CharField()
        author = peewee.ForeignKeyField(Author, backref="volumes")

    await db.create_tables([Author, Volume])
    author = await Author.create(name="Le Guin")
    volume = await Volume.create(title="The Dispossessed", author=author)
    author.favourite = volume
    await author.save()
    again = await Author.get()
    favourite = await again.favourite
    assert favourite.title == "The Dispossessed"
    assert await favourite.author == author
    assert [fan.name async for fan in volume.fans] == ["Le Guin"]


async def test_a_key_to_another_column_and_without_lazy_loading(db: Any) -> None:
    """The row is found by the column that the key points to; with lazy_load=False the key is the value."""
    Base = base_of(db)

    class Country(Base):
        code = peewee.CharField(unique=True, max_length=2)

    class City(Base):
        name = peewee.CharField()
        country = peewee.ForeignKeyField(Country, field="code", backref="cities")
        eager = peewee.ForeignKeyField(Country, lazy_load=False, null=True, backref="+")

    await db.create_tables([Country, City])
    await Country.create(code="xx")
    country = await Country.create(code="fr")
    await City.create(name="Paris", country=country, eager=country)
    city = await City.get()
    assert (city.country_id, city.eager) == ("fr", country.id)
    assert await city.country == country
    assert [city.name async for city in country.cities] == ["Paris"]
    assert await City.select().where(City.country == country).count() == 1
