"""Being let into a cluster of somebody else, and seeing who comes to one's own.

Owns the words that people see at a cluster's door, and where a client key stands there. The code of a key is made by
the binary from the key itself, on the machine of whoever asks; what the control plane shows of others holds none, and
none is made from it here: the owner must hear it from the person. Must not sign: the binary does, by the owner key.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from towline._api import ControlPlane
from towline._errors import ClusterError
from towline._preparation import ClientKey
from towline._progress import Reporter
from towline._views import ClusterView

if TYPE_CHECKING:
    from towline._starting import Watch

__all__ = ["Asking", "Door", "printable"]


def printable(text: str) -> str:
    """A name that somebody else chose, fit for a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:80]


def standing(view: ClusterView, client: str) -> str:
    """Where a client key stands: ``over`` (the cluster), ``in``, ``pending``, ``refused``, or ``absent``."""
    if view.state not in ("starting", "running"):
        return "over"
    if any(known.id == client for known in view.clients):
        return "in"
    asked = next((asked for asked in view.requests if asked.client == client), None)
    if asked is None:
        return "absent"
    return "pending" if asked.state == "pending" else "refused"


def _word(view: ClusterView) -> str:
    """What names a cluster in a command that people are told to type: nothing that a shell reads as something else."""
    return view.name if re.fullmatch(r"[A-Za-z0-9-]+", view.name) else view.id


class Asking:
    """A client key at the door of a cluster.

    Attributes
    ----------
    sentence : str
        Who has to do what, for the message of a limit that passes.
    """

    def __init__(self, plane: ControlPlane, reporter: Reporter, key: ClientKey, first: ClusterView) -> None:
        self._plane, self._reporter, self._key = plane, reporter, key
        self._owner, self._name = printable(first.owner), _word(first)
        self._command = f"towline cluster admit {self._name} {key.code}"
        self.sentence = f"{self._owner} to admit this client with `{self._command}` (the request stays: ask again)"

    async def ask(self, cluster: str) -> ClusterView:
        """Ask, or ask again: the same key changes nothing."""
        try:
            return await self._plane.ask(cluster, {"client": self._key.id, "spki": self._key.spki})
        except ClusterError as error:
            if error.code in ("admission_refused", "client_name_taken"):
                # A key that was refused or withdrawn cannot ask again: the next try makes another.
                self._key.key_file.unlink(missing_ok=True)
            raise

    async def wait(self, watch: Watch) -> None:
        """Show the code and wait until the owner has admitted the key. The caller sets the limit."""
        view = watch.view
        if standing(view, self._key.id) == "in":
            return
        self._tell(
            "asked", f"the code of this client is {self._key.code}; tell it to {self._owner} by a road of your own"
        )
        message = f"waiting for {self._owner} to type, on the machine that made {self._name}:  {self._command}"
        with self._reporter.step("admission", message) as step:
            # At once, also where a phase that has only begun is not shown.
            self._reporter.emit("note", message=message)
            while True:
                view = await watch.until(self._answered(view.revision))
                found = standing(view, self._key.id)
                if found == "in":
                    self._tell("admitted", f"{self._owner} admitted this client")
                    step.done("admitted")
                    return
                if found == "over":
                    raise view.failure()
                if found == "refused":
                    self._key.key_file.unlink(missing_ok=True)
                    raise ClusterError(
                        "admission_refused",
                        f"{self._owner} does not let this client into {self._name}",
                        "Talk to the owner; asking again makes a fresh key.",
                    )
                # It ran out, or the control plane was restored from a backup.
                view = await self.ask(view.id)

    def _answered(self, since: int) -> Callable[[ClusterView], bool]:
        """Whether a view, not older than when we asked, says more than that the owner has not answered."""
        return lambda view: view.revision >= since and standing(view, self._key.id) != "pending"

    def _tell(self, state: str, message: str) -> None:
        self._reporter.emit(
            "admission",
            state=state,
            message=message,
            name=self._name,
            client=self._key.id,
            owner=self._owner,
            code=self._key.code,
            command=self._command,
        )


class Door:
    """What the owner's object tells of others who come: who asks, and who was admitted without its doing.

    Parameters
    ----------
    reporter : Reporter
        Told.
    folder : Path
        Where the client keys of this machine are: whoever has one there is no stranger.
    first : ClusterView
        Who is in already is not told of.
    """

    def __init__(self, reporter: Reporter, folder: Path, first: ClusterView) -> None:
        self._reporter, self._folder = reporter, folder
        self._told: set[str] = set()
        self._known = {client.id for client in first.clients}
        #: How many admissions this object has under way: whom they let in shows only at their end.
        self._admitting = 0
        self._newest = first
        self.saw(first, first)

    def saw(self, view: ClusterView, _before: ClusterView) -> None:
        """Take in a newer view of the cluster."""
        self._newest = view
        for asked in view.requests:
            if asked.state == "pending" and asked.client not in self._told:
                self._told.add(asked.client)
                person, command = printable(asked.person), f"towline cluster admit {_word(view)} CODE"
                self._tell(
                    "requested",
                    f"{person} asks to join {view.name}; if that is to be, have {person} tell you the code shown "
                    f"there, and type:  {command}",
                    view,
                    asked.client,
                    person,
                )
        if self._admitting == 0:
            self._strangers(view)

    def admitting(self) -> None:
        """An admission by this object begins."""
        self._admitting += 1

    def admitted(self, client: str | None) -> None:
        """It is over, and has let this client in."""
        self._admitting -= 1
        if client is not None:
            self._known.add(client)
        if self._admitting == 0:
            self._strangers(self._newest)

    def _strangers(self, view: ClusterView) -> None:
        new = [client for client in view.clients if client.id not in self._known]
        self._known.update(client.id for client in new)
        own = {file.stem for file in self._folder.glob("client-*.key")} if new else set()
        for client in new:
            if client.id in own:
                continue
            person = printable(client.person or "somebody")
            self._tell(
                "admitted",
                f"{client.id} of {person} was admitted to {view.name} with the owner key, and not by this object; "
                f"if that was not you, end the cluster:  towline cluster stop {view.name}",
                view,
                client.id,
                person,
            )

    def _tell(self, state: str, message: str, view: ClusterView, client: str, person: str) -> None:
        self._reporter.emit(
            "admission", state=state, message=message, name=view.name, client=printable(client), person=person
        )
