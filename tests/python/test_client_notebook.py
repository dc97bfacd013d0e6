"""How a cluster shows itself in a notebook: with ipywidgets of either generation, and without."""

from __future__ import annotations

import importlib
import sys
import time
import tomllib
from pathlib import Path

import pytest
import towline
from client_fakes import Workbench


@pytest.fixture
def bench(tmp_path, monkeypatch):
    bench = Workbench(tmp_path, monkeypatch)
    yield bench
    bench.close()


@pytest.fixture
def shown(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda what, **how: shown.append((what, how)))
    return shown


def quick():
    return towline.Cluster(n_workers=1, progress="none", timeout=60, name="shown")


def wait_until(fact, seconds=30):
    until = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < until, "not so in time"
        time.sleep(0.02)


def test_the_widget_shows_and_scales(bench, shown):
    with quick() as cluster:
        cluster._ipython_display_()
        ((what, how),) = shown
        assert how == {"raw": True}
        assert "shown" in what["text/plain"]
        assert "shown" in what["text/html"]
        assert "application/vnd.jupyter.widget-view+json" in what
        scaling = cluster._widget().children[1]
        status, accordion = scaling.children
        assert "Manual" in status.value
        request, scale = accordion.children[0].children
        request.value = 2
        scale.click()
        wait_until(lambda: len(cluster.plan) == 2)


def test_older_widgets_are_shown_by_themselves(bench, shown, monkeypatch):
    monkeypatch.setattr("ipywidgets.__version__", "7.8.5")
    with quick() as cluster:
        cluster._ipython_display_()
        ((what, _),) = shown
        assert what is cluster._widget()


def test_without_widgets_there_is_html_and_text(bench, shown, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with quick() as cluster:
        cluster._ipython_display_()
        ((what, how),) = shown
        assert how == {"raw": True}
        assert set(what) == {"text/plain", "text/html"}
        assert "shown" in what["text/html"]


def test_dask_ctl_finds_the_discovery_where_the_package_says():
    project = tomllib.loads((Path(__file__).parents[2] / "client/pyproject.toml").read_text())
    named = project["project"]["entry-points"]["dask_cluster_discovery"]["towline"]
    module, function = named.split(":")
    assert getattr(importlib.import_module(module), function).__module__ == "towline._discovery"
