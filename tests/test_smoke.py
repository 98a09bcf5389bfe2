from tests.support import Models


async def test_a_row_comes_back(models: Models) -> None:
    user = await models.User.create(name="Huey")
    assert (await models.User.get(name="Huey")).id == user.id
