"""Relations in depth: many-to-many, rows loaded with rows, keys made of keys, deletion of a tree."""

from __future__ import annotations

from typing import Any

import peewee
import pytest
from peewee import PREFETCH_TYPE, Load

from async_peewee import AsyncModel, AsyncSqliteDatabase, aio, prefetch
from tests.support import Models, base_of, on_each_library, queries_of

pytestmark = on_each_library


class School:
    """Students and courses, many to many, with grades for each enrolment."""

    def __init__(self, database: Any) -> None:
        Base = base_of(database)

        class Student(Base):
            name = peewee.CharField()
            tutor = peewee.ForeignKeyField("self", null=True, backref="tutees")

        class Course(Base):
            name = peewee.CharField()
            students = peewee.ManyToManyField(Student, backref="courses")

        Enrolment = Course.students.get_through_model()

        class Grade(Base):
            student = peewee.ForeignKeyField(Student, backref="grades")
            course = peewee.ForeignKeyField(Course, backref="grades")
            mark = peewee.IntegerField()

            class Meta:
                primary_key = peewee.CompositeKey("student", "course")

        class Remark(Base):
            course = peewee.ForeignKeyField(Course, backref="remarks", null=True)
            author = peewee.ForeignKeyField(Student, backref="remarks")
            text = peewee.CharField()

        self.db = database
        self.Student: Any = Student
        self.Course: Any = Course
        self.Enrolment: Any = Enrolment
        self.Grade: Any = Grade
        self.Remark: Any = Remark
        self.all = [Student, Course, Enrolment, Grade, Remark]

    def fill(self) -> None:
        self.db.create_tables(self.all)
        huey = self.Student.create(name="Huey")
        for name in ("Mickey", "Zaizee"):
            self.Student.create(name=name, tutor=huey)
        for name in ("Art", "Maths", "Music"):
            self.Course.create(name=name)
        for course in self.Course.select().order_by(self.Course.id):
            for number in range(4):
                self.Remark.create(course=course, author=1 + number % 2, text=f"{course.name} {number}")

    async def courses(self, student: Any) -> list[str]:
        return [course.name async for course in student.courses.order_by(self.Course.name)]


@pytest.fixture
async def school(db: Any) -> School:
    made = School(db)
    await db.run(made.fill)
    return made


def names(rows: Any) -> list[str]:
    return [row.name for row in rows]


# -- many to many ---------------------------------------------------------------------------


async def test_add_takes_rows_keys_lists_and_queries(school: School) -> None:
    """From either side; the same row twice is an IntegrityError, and an empty list nothing."""
    Student, Course = school.Student, school.Course
    huey, art = await Student.get(name="Huey"), await Course.get(name="Art")
    assert await huey.courses.add(art) is None
    await huey.courses.add([await Course.get(name="Maths")])
    await huey.courses.add([])
    assert await school.courses(huey) == ["Art", "Maths"]
    await art.students.add([2, 3])
    assert await art.students.count() == 3
    with pytest.raises(peewee.IntegrityError):
        await huey.courses.add(art.id)
    mickey = await Student.get(name="Mickey")
    await mickey.courses.add(Course.select().where(Course.name != "Art"))
    assert await school.courses(mickey) == ["Art", "Maths", "Music"]


async def test_remove_and_clear_count_what_they_took(school: School) -> None:
    """Rows, keys, lists and queries again; what is not there counts as none."""
    Course = school.Course
    huey = await school.Student.get(name="Huey")
    await huey.courses.add([1, 2, 3])
    art = await Course.get(name="Art")
    assert (await huey.courses.remove(art), await huey.courses.remove(art)) == (1, 0)
    assert await huey.courses.remove([]) is None
    assert await huey.courses.remove(Course.select().where(Course.name == "Maths")) == 1
    assert (await school.courses(huey), await huey.courses.clear()) == (["Music"], 1)
    assert await huey.courses.clear() == 0


async def test_replacing_is_assignment_in_peewee(school: School) -> None:
    """`add(clear_existing=True)` on the loop, `huey.courses = [...]` in db.run(); both in a transaction."""
    huey = await school.Student.get(name="Huey")
    await huey.courses.add([1, 2])
    async with school.db.atomic() as transaction:
        await huey.courses.add([3], clear_existing=True)
        assert await school.courses(huey) == ["Music"]
        await transaction.rollback()
    assert await school.courses(huey) == ["Art", "Maths"]
    await school.db.run(setattr, huey, "courses", [2, 3])
    assert await school.courses(huey) == ["Maths", "Music"]


async def test_the_through_model_joins_and_filters(school: School) -> None:
    """A query over it, by field and by filter(), and as the way of prefetch() to both sides."""
    Student, Course, Enrolment = school.Student, school.Course, school.Enrolment
    for student, courses in ((1, [1, 2]), (2, [2])):
        await (await Student[student]).courses.add(courses)
    query = Student.select().join(Enrolment).join(Course).where(Course.name == "Maths").order_by(Student.id)
    assert names(await query) == ["Huey", "Mickey"]
    pairs = Enrolment.select(Enrolment, Student, Course).join(Student).switch(Enrolment).join(Course)
    found = {(row.student.name, row.course.name) async for row in pairs}
    assert found == {("Huey", "Art"), ("Huey", "Maths"), ("Mickey", "Maths")}
    students = await prefetch(Student.select().order_by(Student.id), Enrolment, Course)
    # The list that prefetch() left is Peewee's way: the field then reads from it.
    assert [sorted(names(student.courses)) for student in students] == [["Art", "Maths"], ["Maths"], []]


async def test_an_unsaved_row_has_no_relations_yet(school: School) -> None:
    """Peewee's ValueError, at the line that asks."""
    with pytest.raises(ValueError, match="unsaved"):
        _ = school.Student(name="new").courses
    assert await school.Student(name="new").grades.count() == 0


# -- rows with their rows -------------------------------------------------------------------


async def test_with_related_loads_a_tree(school: School) -> None:
    """One query for each relation, however deep, by Load().then(), with any strategy."""
    Student, Course, Remark = school.Student, school.Course, school.Remark
    statements = queries_of(school.db)
    for strategy in (PREFETCH_TYPE.WHERE, PREFETCH_TYPE.JOIN, PREFETCH_TYPE.MATERIALIZE):
        remarks = Load(Course.remarks, Remark.select().order_by(Remark.id), strategy=strategy)
        tree = remarks.then(Load(Remark.author, strategy=strategy).then(Student.tutor))
        courses = await Course.select().order_by(Course.id).with_related(tree)
        assert [len(course.remarks) for course in courses] == [4, 4, 4]
        assert [remark.author.name for remark in courses[0].remarks] == ["Huey", "Mickey"] * 2
        assert courses[0].remarks[1].author.tutor.name == "Huey"
    assert len(statements) == 12


async def test_with_related_takes_the_first_of_each(school: School) -> None:
    """`per_parent`, ranked in the database; get() and first() load relations as well."""
    Course, Remark = school.Course, school.Remark
    last = Load(Course.remarks, Remark.select().order_by(Remark.id.desc()), per_parent=2)
    query = Course.select().order_by(Course.id).with_related(last)
    assert [remark.text for remark in (await query)[0].remarks] == ["Art 3", "Art 2"]
    assert len((await query.first()).remarks) == len((await query.get()).remarks) == 2
    async for course in query:
        assert len(course.remarks) == 2


async def test_with_related_cannot_be_streamed(school: School) -> None:
    """It needs all rows first, and says so where the stream is asked for, in db.run() too."""
    query = school.Remark.select().with_related(school.Remark.author)
    with pytest.raises(ValueError, match=r"with_related\(\) is incompatible with iterator"):
        query.iterator()
    with pytest.raises(ValueError, match=r"with_related\(\) is incompatible with iterator"):
        await school.db.run(lambda: list(query.iterator()))
    assert len([row async for row in query]) == 12


async def test_prefetch_goes_deep_and_takes_aliases(school: School) -> None:
    """Three levels, both ways of relating, two keys to one model by the model named with the query."""
    Student, Course, Remark = school.Student, school.Course, school.Remark
    for kind in (PREFETCH_TYPE.WHERE, PREFETCH_TYPE.JOIN):
        courses = await prefetch(
            Course.select().order_by(Course.id),
            Remark.select().order_by(Remark.id),
            Student,
            prefetch_type=kind,
        )
        assert [remark.author.name for remark in courses[1].remarks] == ["Huey", "Mickey"] * 2
    Tutee = Student.alias()
    students = await prefetch(Student.select().order_by(Student.id), Tutee.select().order_by(Tutee.id))
    assert [names(student.tutees) for student in students] == [["Mickey", "Zaizee"], [], []]
    with pytest.raises(AttributeError, match="unable to find foreign key"):
        await prefetch(Course.select(), Course.select())


async def test_a_backref_is_a_query(school: School) -> None:
    """It takes further conditions, joins, order, updates by its rows, and other row types."""
    Remark, Course = school.Remark, school.Course
    huey = await school.Student.get(name="Huey")
    about_art = huey.remarks.join(Course).where(Course.name == "Art").order_by(Remark.id)
    assert [row.text async for row in about_art] == ["Art 0", "Art 2"]
    assert list(await huey.remarks.select(Remark.text).order_by(Remark.id).limit(1).tuples()) == [("Art 0",)]
    assert await huey.remarks.select(peewee.fn.MAX(Remark.id)).scalar() == 11
    # MySQL reads no table that it changes: the keys come first.
    keys = await huey.remarks.select(Remark.id).scalars()
    assert await Remark.update(text="gone").where(Remark.id.in_(keys)) == 6
    assert {remark.text async for remark in huey.remarks} == {"gone"}


# -- keys -----------------------------------------------------------------------------------


async def test_a_composite_key_of_foreign_keys(school: School) -> None:
    """Rows are found, compared, saved and deleted by it, and none of its own rows is loaded for that."""
    Grade = school.Grade
    await Grade.create(student=1, course=2, mark=3)
    await Grade.insert(student=1, course=1, mark=5)
    grade = await Grade[1, 2]
    statements = queries_of(school.db)
    assert (grade._pk, grade, hash(grade)) == (
        (1, 2),
        Grade(student=1, course=2),
        hash(Grade(student=1, course=2)),
    )
    grade.mark = 4
    assert await grade.save() == 1
    assert (len(statements), grade.__rel__) == (1, {})
    assert [row.mark async for row in Grade.select().where(Grade._meta.primary_key == (1, 2))] == [4]
    assert (await grade.course).name == "Maths"
    with pytest.raises(ValueError, match="composite"):
        await Grade.bulk_update([grade], ["mark"])
    assert await Grade.delete_by_id((1, 2)) == 1
    with pytest.raises(Grade.DoesNotExist):
        await Grade.get_by_id((1, 2))


async def test_recursive_deletion_follows_every_key(school: School) -> None:
    """Rows that need this one go, those that may be without it stay with NULL, or go if that is asked."""
    Student, Course, Remark, Grade = school.Student, school.Course, school.Remark, school.Grade
    huey, art = await Student.get(name="Huey"), await Course.get(name="Art")
    await huey.courses.add(art)
    await Grade.create(student=huey, course=art, mark=1)
    assert await huey.delete_instance(recursive=True) == 1
    assert await Student.select().where(Student.tutor.is_null()).count() == 2
    assert (await art.students.count(), await art.grades.count(), await art.remarks.count()) == (0, 0, 2)
    assert await art.delete_instance(recursive=True) == 1
    assert await Remark.select().where(Remark.course.is_null()).count() == 2
    maths = await Course.get(name="Maths")
    assert await maths.delete_instance(recursive=True, delete_nullable=True) == 1
    assert await Remark.select().count() == 4


async def test_references_form_a_chain(school: School) -> None:
    """One hop each on the loop, or the whole chain in one by aio(function)."""
    Student = school.Student
    remark = await school.Remark.get(author=2)
    author = await remark.author
    tutor = await author.tutor
    assert (tutor.name, tutor.tutor, author.tutor) == ("Huey", None, tutor)
    again = await school.Remark.get(author=2)
    assert await aio(lambda: again.author.tutor.name) == "Huey"
    assert again.author.tutor.name == "Huey"  # and the rows are loaded now
    assert await Student.select().where(Student.tutor == author.tutor).count() == 2


async def test_a_deferred_key_can_be_made_in_the_database(sqlite_db: AsyncSqliteDatabase) -> None:
    """DeferredForeignKey resolves when its model appears, in a query and as a reference."""
    models = Models(sqlite_db)

    class Draft(AsyncModel):
        author = peewee.DeferredForeignKey("LateUser", backref="drafts")

        class Meta:
            database = sqlite_db

    class LateUser(models.User):  # type: ignore[misc, name-defined]
        pass

    await sqlite_db.create_tables([LateUser, Draft])
    user = await LateUser.create(name="Huey")
    await Draft.create(author=user)
    assert (await (await Draft.get()).author).name == "Huey"
    assert await user.drafts.count() == 1
    assert (await Draft.select(Draft, LateUser).join(LateUser).get()).author.name == "Huey"
