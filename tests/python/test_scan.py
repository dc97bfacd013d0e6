"""The scan of hand-made installations: what is found, where editable code lies, and that nothing of it is run."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

SCAN = Path(__file__).resolve().parents[2] / "client" / "src" / "towline" / "_scan.py"


def load() -> Any:
    """The module by its path: the package around it need not be importable."""
    spec = importlib.util.spec_from_file_location("towline_scan_under_test", SCAN)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Installation:
    """A site-packages directory made by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site = folder / "lib" / "python3.11" / "site-packages"
        self.site.mkdir(parents=True)

    def write(self, path: Path, text: str = "") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def distribution(self, name: str, version: str = "1.0", **files: str) -> Path:
        """Install; keyword arguments are files of the metadata folder, with ``__`` for a dot."""
        folder = self.site / f"{name.replace('-', '_')}-{version}.dist-info"
        self.write(folder / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nName: not-this\n")
        self.write(folder / "WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        for file, text in files.items():
            self.write(folder / file.replace("__", "."), text)
        return folder

    def editable(self, name: str, project: Path, pth: list[str], **files: str) -> None:
        direct = json.dumps({"url": project.as_uri(), "dir_info": {"editable": True}})
        record = "".join(f"{file},,\n" for file in pth)
        self.distribution(name, RECORD=record, direct_url__json=direct, **files)


class ScanTest(unittest.TestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name).resolve()
        self.here = Installation(self.folder)
        self.module = load()

    def scan(self, *path: Path) -> dict[str, dict[str, Any]]:
        document = self.module.scan([str(item) for item in path or (self.here.site,)])
        json.dumps(document)
        return {record["name"]: record for record in document["distributions"]}

    def roots(self, name: str) -> dict[str, str]:
        return {root["package"]: root["path"] for root in self.scan()[name]["roots"]}

    def test_tells_the_sources_apart(self) -> None:
        self.here.distribution("from-index")
        self.here.distribution("from-conda", INSTALLER="conda\n")
        self.here.distribution("from-git", direct_url__json='{"url": "https://x", "vcs_info": {"vcs": "git"}}')
        self.here.distribution("from-folder", direct_url__json='{"url": "file:///x", "dir_info": {}}')
        self.here.distribution("from-file", direct_url__json='{"url": "https://x/a.whl", "archive_info": {}}')
        self.here.write(self.here.site / "old-thing.egg-link", "/somewhere\n.\n")
        found = {name: record["source"] for name, record in self.scan().items()}
        self.assertEqual(
            found,
            {
                "from-index": "index",
                "from-conda": "conda",
                "from-git": "vcs",
                "from-folder": "local",
                "from-file": "local",
                "old-thing": "legacy",
            },
        )

    def test_reads_name_version_and_tags_from_the_headers_only(self) -> None:
        self.here.distribution("Some.Thing", "2.0+local", WHEEL="Tag: cp311-cp311-linux_x86_64\nTag: a-b-c\n")
        record = self.scan()["Some.Thing"]
        self.assertEqual(record["version"], "2.0+local")
        self.assertEqual(record["tags"], ["a-b-c", "cp311-cp311-linux_x86_64"])

    def test_the_first_on_the_path_counts(self) -> None:
        second = Installation(self.folder / "second")
        self.here.distribution("some-thing", "1.0")
        second.distribution("Some_Thing", "2.0")
        self.assertEqual(self.scan(self.here.site, second.site)["some-thing"]["version"], "1.0")
        self.assertEqual(self.scan(second.site, self.here.site)["Some_Thing"]["version"], "2.0")

    def test_egg_info_in_a_checkout_is_no_installation(self) -> None:
        self.here.write(self.folder / "checkout" / "x.egg-info" / "PKG-INFO", "Name: x\nVersion: 9\n")
        self.here.write(self.here.site / "y.egg-info" / "PKG-INFO", "Name: y\nVersion: 3\n")
        self.assertEqual(list(self.scan(self.folder / "checkout", self.here.site)), ["y"])

    def test_torn_metadata_and_missing_folders_are_passed_over(self) -> None:
        self.here.write(self.here.site / "torn-1.0.dist-info" / "METADATA", "nothing here\n")
        (self.here.site / "empty-1.0.dist-info").mkdir()
        self.here.distribution("broken-url", direct_url__json="{")
        self.assertEqual(list(self.scan(self.folder / "nowhere", self.here.site)), ["broken-url"])

    def test_editable_src_layout_by_path_file(self) -> None:
        project = self.folder / "project"
        package = self.here.write(project / "src" / "demo_lib" / "__init__.py").parent
        self.here.write(project / "src" / "single.py")
        self.here.write(project / "src" / "not-a-name" / "x.txt")
        self.here.write(self.here.site / "__editable__.demo.pth", f"# a comment\n\n{project / 'src'}\nimport os\n")
        self.here.editable("demo", project, ["__editable__.demo.pth"])
        wanted = {"demo_lib": str(package), "single": str(project / "src" / "single.py")}
        self.assertEqual(self.roots("demo"), wanted)
        self.assertEqual(self.scan()["demo"]["project"], str(project))

    def test_editable_flat_layout_leaves_tests_and_tools_out(self) -> None:
        project = self.folder / "project"
        for name in ("demo_lib", "tests", "docs", "build"):
            self.here.write(project / name / "__init__.py")
        self.here.write(project / "setup.py")
        self.here.write(project / "conftest.py")
        self.here.write(project / "data" / "x.csv")
        self.here.write(self.here.site / "demo.pth", f"{project}\n")
        self.here.editable("demo", project, ["demo.pth"])
        self.assertEqual(self.roots("demo"), {"demo_lib": str(project / "demo_lib")})

    def test_declared_names_beat_guesses(self) -> None:
        project = self.folder / "project"
        for name in ("demo_lib", "other"):
            self.here.write(project / name / "__init__.py")
        self.here.write(self.here.site / "demo.pth", f"{project}\n")
        self.here.editable("demo", project, ["demo.pth"], top_level__txt="demo_lib\n")
        self.assertEqual(list(self.roots("demo")), ["demo_lib"])

    def test_finder_mapping_is_read_and_never_run(self) -> None:
        project = self.folder / "project"
        package = self.here.write(project / "code" / "__init__.py").parent
        module = self.here.write(project / "single.py")
        mark = self.folder / "was-run"
        finder = (
            f"open({str(mark)!r}, 'w')\n"
            f"MAPPING: dict[str, str] = {{'demo_lib': {str(package)!r}, 'single': {str(project / 'single')!r}}}\n"
            "NAMESPACES: dict[str, list[str]] = {}\n"
        )
        self.here.write(self.here.site / "__editable___demo_1_0_finder.py", finder)
        self.here.write(self.here.site / "__editable__.demo.pth", "import __editable___demo_1_0_finder\n")
        self.here.editable("demo", project, ["__editable__.demo.pth", "__editable___demo_1_0_finder.py"])
        self.assertEqual(self.roots("demo"), {"demo_lib": str(package), "single": str(module)})
        self.assertFalse(mark.exists())

    def test_redirector_calls_are_read(self) -> None:
        project = self.folder / "project"
        package = self.here.write(project / "demo_lib" / "__init__.py").parent
        text = f"from editables.redirector import RedirectingFinder as F\nF.install()\nF.map_module('demo_lib', {str(package / '__init__.py')!r})\n"
        self.here.write(self.here.site / "_editable_impl_demo.py", text)
        self.here.editable("demo", project, ["_editable_impl_demo.py"])
        self.assertEqual(self.roots("demo"), {"demo_lib": str(package)})

    def test_a_finder_that_is_no_python_gives_no_roots(self) -> None:
        self.here.write(self.here.site / "__editable___demo_finder.py", "MAPPING = {'a': open('x')}\n")
        self.here.write(self.here.site / "__editable___other_finder.py", "this is not python\x00")
        self.here.editable("demo", self.folder, ["__editable___demo_finder.py"])
        self.here.editable("other", self.folder, ["__editable___other_finder.py"])
        self.assertEqual((self.roots("demo"), self.roots("other")), ({}, {}))

    def test_runs_from_standard_input_in_any_interpreter(self) -> None:
        self.here.distribution("some-thing")
        self.here.write(self.folder / "stray.dist-info" / "METADATA", "Name: stray\nVersion: 1\n")
        done = subprocess.run(
            [sys.executable, "-"],
            input=SCAN.read_bytes(),
            capture_output=True,
            timeout=60,
            cwd=self.folder,
            env={"PYTHONPATH": str(self.here.site)},
            check=True,
        )
        document = json.loads(done.stdout)
        names = [record["name"] for record in document["distributions"]]
        self.assertIn("some-thing", names)
        self.assertNotIn("stray", names, "the current directory is no place of installation")
        self.assertEqual(document["v"], 0)
        self.assertEqual(document["interpreter"]["implementation"], sys.implementation.name)

    def test_needs_nothing_but_the_standard_library_and_imports_nothing_found(self) -> None:
        self.here.distribution("loud")
        self.here.write(self.here.site / "loud.py", "raise SystemExit('was imported')\n")
        before = set(sys.modules)
        self.scan()
        self.assertNotIn("loud", set(sys.modules) - before)


if __name__ == "__main__":
    unittest.main()
