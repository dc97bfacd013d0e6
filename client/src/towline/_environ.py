"""Environment values for the workers, from this process to the scheduler and nowhere else.

Owns what `environ=` takes and how it reaches every worker, those that come later included: as Dask's own plugin, over
the cluster's TLS. The control plane never has the values, so nothing here may log or show one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distributed.diagnostics.plugin import Environ, WorkerPlugin
from distributed.protocol.pickle import dumps

from towline._errors import ClusterError

__all__ = ["parse_environ", "send"]

#: Under this name the scheduler keeps the plugin; sending again replaces it.
_NAME = "towline-environ"
#: A worker that goes just now breaks the call; those that are left are told again.
_TRIES = 3


def parse_environ(value: object) -> dict[str, str]:
    """Check the argument.

    Raises
    ------
    ClusterError
        ``argument_invalid``, with the name at fault and never a value.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _invalid('takes a dictionary such as {"NAME": "value"}')
    found: dict[str, str] = {}
    for name, text in value.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise _invalid(f"has a name that no environment can hold: {name!r:.80}")
        if name.startswith("TOWLINE_"):
            raise _invalid(f"has {name!r:.80}: names that begin with TOWLINE_ are the agent's")
        if isinstance(text, bool) or not isinstance(text, (str, int, float)) or "\0" in str(text):
            raise _invalid(f"takes text as values; that of {name!r:.80} is not (it is not shown here)")
        found[name] = str(text)
    return found


def _invalid(takes: str) -> ClusterError:
    return ClusterError("argument_invalid", f"`environ` {takes}", "Change `environ`.")


async def send(scheduler: Any, environ: Mapping[str, str], nanny: bool) -> None:
    """Give the values to every worker, before it runs a task.

    With a nanny they are in the worker's process from its start, so that libraries that look only once see them;
    workers that are there already are started again for it. Without a nanny they are set in the running process.

    Parameters
    ----------
    scheduler : rpc
        The connection to the scheduler.
    environ : mapping
        Names and values.
    nanny : bool
        Whether the workers have one.
    """
    register = scheduler.register_nanny_plugin if nanny else scheduler.register_worker_plugin
    plugin = dumps(Environ(dict(environ)) if nanny else _in_process(dict(environ)))
    for left in reversed(range(_TRIES)):
        try:
            answers = await register(plugin=plugin, name=_NAME, idempotent=False)
        except OSError:
            if not left:
                raise
            continue
        # Errors of Dask are told by their type alone: their text may hold what was being set.
        failed = [worker for worker, answer in answers.items() if answer.get("status") == "error"]
        if failed:
            raise ClusterError(
                "environ_failed", f"the environment values could not be set on {failed[0]}", "Check their names."
            )
        return


def _in_process(environ: dict[str, str]) -> WorkerPlugin:
    # A class that lives in a function travels by value: workers need not have this package.
    class EnvironInProcess(WorkerPlugin):
        def setup(self, worker: Any) -> None:
            import os

            os.environ.update(environ)

    return EnvironInProcess()
