"""The README says what lesson 22 has found, and under which licences the packages are."""

from importlib import metadata

import pytest
from matplotlib.image import imread

from helpers import ROOT, lessons, readme


def test_the_verdict_in_the_readme_is_current():
    assert readme.PAGE.read_text(encoding="utf-8") == readme.page(), "run `python3 -m helpers readme`"


def test_the_picture_in_the_readme_is_current():
    assert readme.PICTURE.read_bytes() == readme.picture(), "run `python3 -m helpers readme`"


def test_another_verdict_would_show(tmp_path, monkeypatch):
    changed = tmp_path / "README.md"
    old = readme.page()
    changed.write_text(old.replace("holds partly", "holds", 1), encoding="utf-8")
    monkeypatch.setattr(readme, "PAGE", changed)
    assert changed.read_text(encoding="utf-8") != readme.page() == old


def test_both_are_written(tmp_path, monkeypatch, no_leftovers):
    page = tmp_path / "README.md"
    page.write_text("# Title\n<!-- verdict -->\n<!-- end -->\nthe rest\n", encoding="utf-8")
    monkeypatch.setattr(readme, "PAGE", page)
    monkeypatch.setattr(readme, "PICTURE", tmp_path / "picture.png")
    readme.main()
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Title\n") and text.endswith("the rest\n") and text.count("\n- *") == 6
    assert imread(tmp_path / "picture.png").ndim == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "picture.png"]


def test_a_page_that_is_not_written_whole_stays_as_it_was(tmp_path, monkeypatch, no_leftovers):
    def interrupt(*args):
        raise KeyboardInterrupt

    page, text = tmp_path / "README.md", "<!-- verdict -->\n<!-- end -->\n"
    page.write_text(text, encoding="utf-8")
    monkeypatch.setattr(readme, "PAGE", page)
    monkeypatch.setattr(readme, "PICTURE", tmp_path / "picture.png")
    monkeypatch.setattr(readme.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        readme.main()
    assert page.read_text(encoding="utf-8") == text and [*tmp_path.iterdir()] == [page]


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    page = tmp_path / "README.md"
    page.write_text("# Title\n", encoding="utf-8")
    monkeypatch.setattr(readme, "PAGE", page)
    with pytest.raises(ValueError, match="no place for the verdict"):
        readme.main()
    cells = lessons.cells(readme.LESSON)
    for cell in cells:
        if cell.id == "control-square":
            cell.outputs = []
    monkeypatch.setattr(lessons, "cells", lambda name: cells)
    with pytest.raises(ValueError, match="helpers run 22_key_differences"):
        readme.picture()


def test_the_licences_are_those_of_the_installed_packages():
    told = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Licence")[2]
    assert "TensorFlow, Keras, TensorFlow Probability and tf-keras are under Apache 2.0, FastAPI and" in told
    assert "onnxruntime under MIT, NumPy, SciPy and PyTorch under BSD licences and others." in told
    names = {"Apache": ["tensorflow", "keras", "tensorflow-probability", "tf-keras"]}
    names |= {"MIT": ["fastapi", "onnxruntime"], "BSD": ["numpy", "scipy", "torch"]}
    for licence, packages in names.items():
        for package in packages:
            known = metadata.metadata(package)
            said = [*known.get_all("License-Expression", []), *known.get_all("License", [])]
            assert licence in " ".join(said + known.get_all("Classifier", [])), package
