"""What is installed here: one JSON document about this interpreter and its distributions.

Owns reading the metadata of installed distributions and nothing else. Must not import, build or run any of them, must
not touch the network, and must not need anything beyond the standard library: the same file is embedded in the
``towline`` binary, which runs it with interpreters that have no ``towline`` installed. Driven by ``towline.Cluster`` in
the user's process and by ``towline env scan --python P``.

The document stays on this machine: ``towline env prepare`` reads it and uploads names, versions and hashes only.
"""

from __future__ import annotations

import ast
import json
import os
import platform
import re
import sys
import urllib.parse
import urllib.request
from typing import Any, Iterable, Iterator

__all__ = ["scan"]

#: Version of the document, which must equal the one that the binary reads.
SCAN_VERSION = 0

#: A path configuration file or finder longer than this is not one that a build backend wrote.
_MAX_TEXT = 1024 * 1024


def scan(path: Iterable[str] | None = None) -> dict[str, Any]:
    """Describe this interpreter and every distribution on its search path.

    Parameters
    ----------
    path
        Directories to look in, in order; ``sys.path`` when left out. Of two distributions of one name the first counts,
        as it does for ``import``.

    Returns
    -------
    dict
        A JSON-ready document: ``v``, ``interpreter``, ``distributions`` (sorted by normalised name).
    """
    found: dict[str, dict[str, Any]] = {}
    for location, entry in _metadata_entries(sys.path if path is None else path):
        record = _distribution(location, entry)
        if record is not None:
            found.setdefault(_normalise(record["name"]), record)
    return {
        "v": SCAN_VERSION,
        "interpreter": _interpreter(),
        "distributions": [found[name] for name in sorted(found)],
    }


def _interpreter() -> dict[str, Any]:
    return {
        "implementation": sys.implementation.name,
        "version": platform.python_version(),
        "executable": sys.executable or "",
        "prefix": sys.prefix,
        "platform": _platform(),
        "conda": os.path.isdir(os.path.join(sys.prefix, "conda-meta")),
    }


def _platform() -> str:
    """The platform as one word: ``<machine>-<system>``, with the C library's version where wheels depend on it."""
    machine = platform.machine().lower() or "unknown"
    if sys.platform == "linux":
        try:
            library, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        except (AttributeError, OSError, ValueError):
            return machine + "-musllinux_1_1"
        if library == "glibc":
            major, minor = version.split(".")[:2]
            return "%s-manylinux_%s_%s" % (machine, major, minor)
        return machine + "-linux"
    return "%s-%s" % (machine, {"darwin": "macos", "win32": "windows"}.get(sys.platform, sys.platform))


def _metadata_entries(path: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Metadata folders and files, in the order of the search path.

    ``*.egg-info`` counts only inside an installation directory: one that lies in a project's checkout is a by-product
    of building it, and its version may be any.
    """
    seen: set[str] = set()
    for item in path:
        location = os.path.abspath(item or os.curdir)
        if location in seen:
            continue
        seen.add(location)
        try:
            names = sorted(os.listdir(location))
        except OSError:  # not a directory, gone, or a zip file: nothing there was installed by an installer
            continue
        installed = os.path.basename(location) in ("site-packages", "dist-packages")
        # dist-info beats egg-info beside it: the latter is what an older installation left.
        for name in names:
            if name.endswith(".dist-info"):
                yield location, name
        for name in names:
            if installed and name.endswith((".egg-info", ".egg-link")):
                yield location, name


def _distribution(location: str, entry: str) -> dict[str, Any] | None:
    folder = os.path.join(location, entry)
    if entry.endswith(".egg-link"):
        return _legacy(location, entry)
    name, version = _name_and_version(folder)
    if not name or not version:
        return None  # a torn folder: `import` can still find the code, but nobody can say what it is
    direct = _json(os.path.join(folder, "direct_url.json"))
    record: dict[str, Any] = {
        "name": name,
        "version": version,
        "source": _source(folder, direct),
        "location": location,
        "metadata": entry,
        "tags": _tags(folder),
        "project": None,
        "roots": [],
    }
    if record["source"] == "editable":
        record["project"] = _file_url_path(str(direct.get("url", "")))
        record["roots"] = _editable_roots(location, folder, record["project"])
    return record


def _legacy(location: str, entry: str) -> dict[str, Any] | None:
    """``setup.py develop`` of long ago: reported, so that the refusal can name it."""
    lines = _text(os.path.join(location, entry)).splitlines()
    return {
        "name": entry[: -len(".egg-link")],
        "version": "0",
        "source": "legacy",
        "location": location,
        "metadata": entry,
        "tags": [],
        "project": lines[0].strip() if lines else None,
        "roots": [],
    }


def _source(folder: str, direct: dict[str, Any]) -> str:
    if _text(os.path.join(folder, "INSTALLER")).strip() == "conda":
        return "conda"
    if "vcs_info" in direct:
        return "vcs"
    if "dir_info" in direct:
        info = direct["dir_info"]
        return "editable" if isinstance(info, dict) and info.get("editable") else "local"
    return "local" if "archive_info" in direct else "index"


def _name_and_version(folder: str) -> tuple[str, str]:
    """The two headers that matter. The rest of a METADATA file may be a long README, so it is not parsed."""
    name = version = ""
    for candidate in (os.path.join(folder, "METADATA"), os.path.join(folder, "PKG-INFO"), folder):
        try:
            with open(candidate, encoding="utf-8", errors="replace") as file:
                for line in file:
                    if not line.strip() or (name and version):
                        break
                    key, colon, value = line.partition(":")
                    if colon and key.lower() == "name":
                        name = name or value.strip()
                    elif colon and key.lower() == "version":
                        version = version or value.strip()
            break
        except OSError:
            continue
    return name, version


def _tags(folder: str) -> list[str]:
    """The wheel tags it was installed from; empty when it came from no wheel."""
    lines = _text(os.path.join(folder, "WHEEL")).splitlines()
    return sorted({value.strip() for key, _, value in (line.partition(":") for line in lines) if key == "Tag"})


def _editable_roots(location: str, folder: str, project: str | None) -> list[dict[str, str]]:
    """Where an editable project's packages lie, as ``{"package": dotted name, "path": folder or file}``.

    Build backends write this down in one of two ways: a ``.pth`` file with directories, or a finder module with a
    mapping. The finder is read as text and parsed; it is never run.
    """
    roots: dict[str, str] = {}
    directories: list[str] = []
    for relative in _recorded_files(folder):
        base = os.path.basename(relative)
        if os.path.dirname(relative):
            continue
        text = _text(os.path.join(location, relative))
        if base.endswith(".pth"):
            lines = (line.strip() for line in text.splitlines())
            directories += [line for line in lines if line and not line.startswith(("#", "import ", "import\t"))]
        elif base.endswith(".py") and "editable" in base:
            roots.update(_finder_mapping(text))
    declared = _text(os.path.join(folder, "top_level.txt")).split()
    for directory in directories:
        directory = os.path.normpath(os.path.join(location, directory))
        for name in declared or _importable_names(directory, project):
            for candidate in (os.path.join(directory, *name.split("/")), os.path.join(directory, name + ".py")):
                if os.path.exists(candidate):
                    roots.setdefault(name.replace("/", "."), candidate)
                    break
    return [{"package": name, "path": os.path.normpath(roots[name])} for name in sorted(roots)]


def _recorded_files(folder: str) -> list[str]:
    """First column of RECORD. Names with commas or quotes are never those of a finder or ``.pth`` file."""
    lines = _text(os.path.join(folder, "RECORD")).splitlines()
    return [line.partition(",")[0] for line in lines if line and not line.startswith('"')]


def _finder_mapping(text: str) -> dict[str, str]:
    """Package to path, out of the finder modules of setuptools (``MAPPING``) and of ``editables`` (``map_module``)."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return {}
    mapping: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == "MAPPING" for target in targets) and node.value:
                try:
                    value = ast.literal_eval(node.value)
                except ValueError:
                    continue
                if isinstance(value, dict):
                    mapping.update({str(key): str(path) for key, path in value.items()})
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "map_module":
            values = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            if len(values) == 2 and all(isinstance(value, str) for value in values):
                path = str(values[1])
                mapping[str(values[0])] = os.path.dirname(path) if path.endswith("__init__.py") else path
    for name, path in mapping.items():
        # setuptools maps a single-file module to its path without `.py`.
        if not os.path.exists(path) and os.path.isfile(path + ".py"):
            mapping[name] = path + ".py"
    return mapping


#: In a project's own root these are tools, tests and papers, not what the project installs
#: (the same names that setuptools leaves out of a flat layout).
_NOT_PACKAGES = frozenset(
    "benchmark benchmarks bin build changelog ci conftest debian dist doc docs documentation example examples fabfile "
    "htmlcov manpages man newsfragments node_modules notebooks noxfile packaging requirements scripts setup tasks test "
    "tests toxfile tools util utils venv".split()
)


def _importable_names(directory: str, project: str | None) -> list[str]:
    """What ``import`` would find in a directory of a ``.pth`` file.

    In the project's own root (flat layout) only folders with ``__init__.py`` and modules count, without the customary
    names of tests and tools; in any other directory (``src`` layout) folders without ``__init__.py`` count too.
    """
    own_root = project is not None and os.path.realpath(directory) == os.path.realpath(project)
    names: list[str] = []
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return []
    for entry in entries:
        stem, extension = os.path.splitext(entry.name)
        if own_root and stem in _NOT_PACKAGES:
            continue
        if entry.is_dir():
            regular = os.path.isfile(os.path.join(entry.path, "__init__.py"))
            if entry.name.isidentifier() and entry.name != "__pycache__" and (regular or not own_root):
                names.append(entry.name)
        elif extension == ".py" and stem.isidentifier():
            names.append(stem)
        elif extension in (".so", ".pyd"):
            # Reported by its stem's first part, so that the binary sees compiled code and can refuse it by name.
            names.append(entry.name)
    return names


def _file_url_path(url: str) -> str | None:
    parts = urllib.parse.urlsplit(url)
    return os.path.normpath(urllib.request.url2pathname(parts.path)) if parts.scheme == "file" else None


def _normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _json(path: str) -> dict[str, Any]:
    try:
        value = json.loads(_text(path) or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _text(path: str) -> str:
    """A small text file, or the empty text when it is not there."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_TEXT)
    except OSError:
        return ""


if __name__ == "__main__":
    # Run from standard input, Python puts the current directory first; nothing is installed there.
    if sys.path and sys.path[0] in ("", os.getcwd()):
        del sys.path[0]
    json.dump(scan(), sys.stdout)
