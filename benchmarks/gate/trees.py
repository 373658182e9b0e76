"""Two revisions, each installed in an environment of its own with a cache of compiled code of its own."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parents[2]


class CannotBuild(Exception):
    """A revision does not exist or cannot be installed; the message says why."""


@dataclass(frozen=True)
class Installed:
    """A revision that can be run.

    Parameters
    ----------
    side : str
        "base" or "head".
    label : str
        What the user called it, and the commit.
    environment : Path
        Its virtual environment.
    cache : Path
        What `NUMBA_CACHE_DIR` is for it.
    """

    side: str
    label: str
    environment: pathlib.Path
    cache: pathlib.Path

    @property
    def python(self) -> str:
        """The environment's interpreter."""
        folder = "Scripts" if os.name == "nt" else "bin"
        return str(self.environment / folder / "python")


def _run(*command: str, cwd: pathlib.Path | None = None) -> bytes:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, check=False)
    if done.returncode != 0:
        last = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-6:]
        raise CannotBuild("\n  ".join([f"{' '.join(command[:6])} ended with {done.returncode}:", *last]))
    return done.stdout


def is_folder(spec: str) -> bool:
    """Return whether a revision is given as a folder with a package in it, such as "."."""
    return (pathlib.Path(spec) / "pyproject.toml").is_file()


def _listed(folder: pathlib.Path) -> bytes:
    try:
        return _run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=folder)
    except CannotBuild as error:
        raise CannotBuild(
            f"got a folder whose files git does not list, expected one in a repository (git init makes it one): {error}"
        ) from None


def export(spec: str, target: pathlib.Path) -> str:
    """Write the files of a revision into an empty folder and return its label.

    A folder is taken as it is, committed or not, without what git ignores.
    """
    target.mkdir(parents=True)
    if is_folder(spec):
        source = pathlib.Path(spec).resolve()
        listed = _listed(source)
        for name in filter(None, listed.decode().split("\0")):
            if (source / name).is_file():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source / name, target / name)
        return f"{spec} (as it is)"
    commit = _run("git", "rev-parse", "--verify", "--quiet", f"{spec}^{{commit}}", cwd=ROOT).decode().strip()
    with tempfile.TemporaryDirectory() as folder:
        archive = pathlib.Path(folder) / "tree.tar"
        _run("git", "archive", "--output", str(archive), commit, cwd=ROOT)
        with tarfile.open(archive) as packed:
            packed.extractall(target, filter="data")
    return commit[:8] if commit.startswith(spec) else f"{spec} ({commit[:8]})"


def _digest(*paths: pathlib.Path) -> str:
    files = sorted(file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
    state = hashlib.sha256(sys.version.encode())
    for file in files:
        state.update(f"{file.name}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    return state.hexdigest()[:16]


def install(spec: str, side: str, work: pathlib.Path) -> Installed:
    """Install a revision under `work`/`side` and return where it is.

    What is there from an earlier run is used again where it is the same: the environment while pyproject.toml is, the
    package and its compiled code while all files are.

    Raises
    ------
    CannotBuild
        No such revision, or pip fails.
    """
    tree, environment, stamp = work / side / "tree", work / side / "env", work / side / "stamp.json"
    shutil.rmtree(tree, ignore_errors=True)
    try:
        label = export(spec, tree)
    except CannotBuild as error:
        if is_folder(spec):
            raise CannotBuild(f"{spec}: {error}") from None
        raise CannotBuild(
            f"{spec}: got neither a revision that git knows nor a folder with a package: {error}"
        ) from None
    if not (tree / "fastnn").is_dir():
        raise CannotBuild(f"{spec}: got a tree without the folder fastnn, expected the project")
    wanted = {
        "requirements": _digest(tree / "pyproject.toml"),
        "package": _digest(tree / "pyproject.toml", tree / "fastnn"),
    }
    found = json.loads(stamp.read_text()) if stamp.is_file() else {}
    stamp.unlink(missing_ok=True)  # a failure on the way leaves nothing that looks whole
    result = Installed(side, label, environment.resolve(), (work / side / "numba-cache" / wanted["package"]).resolve())
    if found.get("requirements") != wanted["requirements"]:
        shutil.rmtree(environment, ignore_errors=True)
        _run(sys.executable, "-m", "venv", str(environment))
        found = {}
    if found.get("package") != wanted["package"]:
        fresh = [] if not found else ["--force-reinstall", "--no-deps"]
        _run(result.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *fresh, str(tree))
        shutil.rmtree(result.cache.parent, ignore_errors=True)
    result.cache.mkdir(parents=True, exist_ok=True)
    stamp.write_text(json.dumps(wanted))
    return result
