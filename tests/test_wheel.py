"""The wheel, built from a copy of the checkout: it has the package with its types, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from zipfile import ZipFile

import pytest

pytestmark = pytest.mark.soak

ROOT = Path(__file__).parent.parent

# -I keeps the checkout out of sight; the folder goes before an installation of it.
IMPORT_ALL = """
import importlib, pkgutil, sys
sys.path.insert(0, sys.argv[1])
import async_peewee
for module in pkgutil.walk_packages(async_peewee.__path__, "async_peewee."):
    importlib.import_module(module.name)
print(async_peewee.__file__, async_peewee.__version__)
"""


def run(*command: str | Path) -> str:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def has_build_backend() -> bool:
    """Return True if setuptools is installed here, so that pip need not fetch it to build."""
    try:
        return int(version("setuptools").partition(".")[0]) >= 77
    except PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel. The checkout itself is left alone: setuptools writes into what it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")
    shutil.copytree(ROOT, folder / "checkout", ignore=ignored)
    isolation = ["--no-build-isolation"] if has_build_backend() else []
    run("-m", "pip", "wheel", "--no-deps", *isolation, "--wheel-dir", folder, folder / "checkout")
    return next(folder.glob("*.whl"))


def test_the_wheel_has_the_package_with_its_types_and_nothing_else(wheel: Path) -> None:
    files = [path for path in ROOT.glob("async_peewee/**/*") if path.suffix in (".py", ".pyi", ".typed")]
    expected = {path.relative_to(ROOT).as_posix() for path in files}
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == expected
    assert {"async_peewee/py.typed", "async_peewee/_typing/results.pyi"} <= names


def test_what_is_installed_from_the_wheel_imports(wheel: Path, tmp_path: Path) -> None:
    run("-m", "pip", "install", "--no-deps", "--no-index", "--target", tmp_path, wheel)
    file, installed = run("-I", "-c", IMPORT_ALL, tmp_path).split()
    assert Path(file).parent.parent == tmp_path
    assert installed == wheel.name.split("-")[1]
