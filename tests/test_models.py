"""Every method of a model under its own name, and its relations, on every database."""

from __future__ import annotations

from typing import Any

import peewee
import pytest

from async_peewee import AsyncModel, AsyncSqliteDatabase, aio
from tests.support import Models, queries_of


def base_of(database: Any) -> Any:
    """Return a base class of models on a database."""
    return type("Base", (AsyncModel,), {"Meta": type("Meta", (), {"database": database})})


# -- rows -----------------------------------------------------------------------------


async def test_create_and_get(models: Models) -> None:
    """create() gives the row its key; get() by condition, by filter and by key gives an equal row."""
    User = models.User
    huey = await User.create(name="Huey", age=3)
    assert isinstance(huey, User)
    assert (huey.id, huey.is_dirty()) == (1, False)
    for row in (
        await User.get(User.name == "Huey"),
        await User.get(name="Huey"),
        await User.get(huey.id),
        await User.get_by_id(huey.id),
        await User[huey.id],
        await User.get_or_none(name="Huey"),
    ):
        assert (row, row.name, row.age) == (huey, "Huey", 3)


async def test_what_is_not_there(models: Models) -> None:
    """get(), get_by_id() and Model[key] raise the model's own DoesNotExist, get_or_none() gives None."""
    User = models.User
    for call in (User.get(name="nobody"), User.get_by_id(7), User[7]):
        with pytest.raises(User.DoesNotExist, match="matching query does not exist"):
            await call
    assert await User.get_or_none(User.id == 7) is None


async def test_get_or_create(models: Models) -> None:
    """It creates once, with the defaults, and then finds; inside a transaction it is a savepoint."""
    User = models.User
    huey, created = await User.get_or_create(name="Huey", defaults={"age": 3})
    assert (huey.age, created) == (3, True)
    async with models.database.atomic():
        assert await User.get_or_create(name="Huey", defaults={"age": 4}) == (huey, False)
    with pytest.raises(peewee.IntegrityError):
        await User.get_or_create(age=5, defaults={"name": "Huey"})
    assert await User.select().count() == 1


async def test_save(models: Models) -> None:
    """It inserts, then updates; `only` and dirty fields limit it; a duplicate raises IntegrityError."""
    User = models.User
    huey = User(name="Huey", age=3)
    assert await huey.save() == 1
    assert huey.id is not None
    huey.name, huey.age = "Zaizee", 4
    assert await huey.save(only=[User.age]) == 1
    assert (await User.get_by_id(huey.id)).name == "Huey"
    assert huey.dirty_fields == [User.name]
    assert await huey.save() == 1
    assert (await User.get_by_id(huey.id)).name == "Zaizee"
    assert await User(id=50, name="forced").save(force_insert=True) == 1
    with pytest.raises(peewee.IntegrityError):
        await User.create(name="forced")
    assert await User.select().count() == 2


async def test_methods_by_key(models: Models) -> None:
    """set_by_id() updates, or inserts without a key; delete_by_id() counts what it deleted."""
    User = models.User
    assert await User.set_by_id(None, {"name": "Huey"}) == 1
    assert await User.set_by_id(1, {"name": "Zaizee"}) == 1
    assert (await User[1]).name == "Zaizee"
    assert await User.delete_by_id(1) == 1
    assert await User.delete_by_id(1) == 0


async def test_bulk_methods(models: Models) -> None:
    """bulk_create() writes all rows in batches, bulk_update() one column of all of them."""
    User = models.User
    await User.bulk_create([User(name=str(n)) for n in range(5)], batch_size=2)
    rows = list(await User.select().order_by(User.id))
    for row in rows:
        row.age = 10 * int(row.name)
    assert await User.bulk_update(rows[1:], fields=[User.age], batch_size=3) == 4
    assert await User.select(User.age).order_by(User.id).scalars() == [0, 10, 20, 30, 40]


async def test_delete_instance(models: Models) -> None:
    """It refuses while rows point to this one, as the database does; recursive takes them with it."""
    User, Tweet = models.User, models.Tweet
    huey, mickey = await User.create(name="Huey"), await User.create(name="Mickey")
    for user in (huey, huey, mickey):
        await Tweet.create(user=user, text="meow")
    if not isinstance(models.database, AsyncSqliteDatabase):  # its foreign keys are off by default
        with pytest.raises(peewee.IntegrityError):
            await huey.delete_instance()
    assert await huey.delete_instance(recursive=True) == 1
    assert [tweet.user_id async for tweet in Tweet.select()] == [mickey.id]
    assert await huey.delete_instance() == 0


async def test_tables(models: Models) -> None:
    """table_exists, create_table, truncate_table and drop_table, and the database's methods for several."""
    User, Tweet, db = models.User, models.Tweet, models.database
    assert await User.table_exists()
    await User.create_table()  # safe by default
    with pytest.raises((peewee.OperationalError, peewee.ProgrammingError)):
        await User.create_table(safe=False)
    await Tweet.create(user=await User.create(name="Huey"), text="meow")
    await Tweet.truncate_table()
    assert await Tweet.select().count() == 0
    await Tweet.drop_table()
    assert not await Tweet.table_exists()
    assert await db.table_exists(User)
    await db.drop_tables(models.all)
    assert not await db.table_exists("users")
    await db.create_tables(models.all)
    assert {"users", "tweets"} <= set(await db.get_tables())
    assert [column.name for column in await db.get_columns("users")] == ["id", "name", "age"]
    assert await db.get_primary_keys("users") == ["id"]
    assert (await db.get_foreign_keys("tweets"))[0].dest_table == "users"
    assert any(index.unique for index in await db.get_indexes("users"))


# -- relations ------------------------------------------------------------------------


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


async def test_composite_keys(db: Any) -> None:
    """get, save, update and delete by a key of two columns."""

    class Grade(base_of(db)):
        student = peewee.CharField()
        course = peewee.CharField()
        mark = peewee.IntegerField()

        class Meta:
            primary_key = peewee.CompositeKey("student", "course")

    await Grade.create_table()
    grade = await Grade.create(student="Huey", course="Hunting", mark=1)
    await Grade.create(student="Huey", course="Sleeping", mark=5)
    assert await Grade["Huey", "Hunting"] == await Grade.get_by_id(("Huey", "Hunting")) == grade
    grade.mark = 2
    assert await grade.save() == 1
    assert await Grade.select(Grade.mark).order_by(Grade.mark).scalars() == [2, 5]
    with pytest.raises(peewee.IntegrityError):
        await Grade.create(student="Huey", course="Hunting", mark=3)
    assert await grade.delete_instance() == 1
    assert await Grade.select().count() == 1


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
