"""What goes into an image, before any engine is asked."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from scaleplug.errors import InvalidError, NotFoundError
from scaleplug.images import Options, _context, build, plan

APP = "import scaleplug\napp = scaleplug.App('shop')\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "My Shop"
    for name, text in {
        "shop.py": APP,
        "lib/prices.py": "",
        "data.bin": "1",
        ".env": "PASSWORD=hush",
        ".git/config": "",
        "lib/__pycache__/prices.pyc": "",
        "notes.txt": "",
        ".dockerignore": "# not these\nnotes.txt\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_a_file_goes_alone_with_what_its_folder_requires(project: Path) -> None:
    (project / "requirements.txt").write_text("numpy>=2\n")
    made_of = plan(project / "shop.py")
    assert (made_of.name, list(made_of.files), made_of.requirements) == ("shop", ["shop.py"], "numpy>=2\n")


def test_a_project_goes_with_all_but_what_no_image_needs(project: Path) -> None:
    made_of = plan(project)
    assert (made_of.name, sorted(made_of.files)) == ("my-shop", ["data.bin", "lib/prices.py", "shop.py"])
    assert (made_of.requirements, made_of.paths) == ("", ("/app",))


def test_dependencies_come_from_pyproject_where_there_is_no_list(project: Path) -> None:
    (project / "pyproject.toml").write_text('[project]\nname = "shop"\ndependencies = ["numpy>=2", "rich"]\n')
    (project / "src").mkdir()
    (project / "src" / "orders.py").write_text("")
    made_of = plan(project)
    assert (made_of.requirements, made_of.paths) == ("numpy>=2\nrich\n", ("/app/src", "/app"))
    (project / "requirements.txt").write_text("rich\n")
    assert plan(project).requirements == "rich\n"


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("requirements.txt", "rich\n-r more.txt\n", "says '-r more.txt', and other files"),
        ("requirements.txt", "-e .\n", "says '-e .'"),
        ("requirements.txt", ".\n", "says '.'"),
        ("pyproject.toml", '[project]\ndynamic = ["dependencies"]\n', "write a requirements.txt"),
        ("pyproject.toml", "[project", "is no valid TOML"),
    ],
)
def test_what_could_not_be_installed_is_told_at_once(project: Path, file: str, text: str, told: str) -> None:
    (project / file).write_text(text)
    with pytest.raises(InvalidError, match=told):
        plan(project)


def test_what_is_no_app_is_told(project: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no file and no folder"):
        plan(project / "shopp.py")
    with pytest.raises(InvalidError, match=r"data\.bin is neither a Python file nor a folder"):
        plan(project / "data.bin")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match="no Python file in"):
        plan(tmp_path / "empty")
    with pytest.raises(InvalidError, match="--tag 'My Shop' is no name of an image"):
        next(build(plan(project), Options(tag="My Shop", base="worker")))


def test_the_context_is_the_same_for_the_same_files_and_readable_for_the_container(project: Path) -> None:
    (project / "shop.py").chmod(0o600)
    options = Options(tag="shop", base="worker:1", arguments={"TOKEN": "hush"})
    packed = _context(plan(project), options)
    (project / "shop.py").touch()
    assert packed.getvalue() == _context(plan(project), options).getvalue()
    with tarfile.open(fileobj=packed) as archive:
        shop = archive.getmember("app/shop.py")
        assert (shop.mode, shop.uid) == (0o644, 0)
        dockerfile = archive.extractfile("Dockerfile")
        assert dockerfile is not None
        text = dockerfile.read().decode()
    assert text.count("FROM worker:1") == 2
    assert "ARG TOKEN\n" in text
    assert "hush" not in text
