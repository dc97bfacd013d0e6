"""The control plane's REST API, as far as a cluster object needs it.

Owns requests, their deadlines and retries, and turning refusals into `ClusterError`. Must not decide when to call what.
Driven by `_starting.py` and `_cluster.py`. The event stream is in `_events.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote

from tornado.httpclient import HTTPRequest, HTTPResponse
from tornado.httputil import HTTPHeaders
from tornado.iostream import StreamClosedError
from tornado.simple_httpclient import (
    HTTPStreamClosedError,
    HTTPTimeoutError,
    SimpleAsyncHTTPClient,
)

from towline._errors import ClusterError
from towline._events import Disconnected, Refused, stream
from towline._profile import Profile
from towline._version import __version__
from towline._views import ClusterView, Identity

__all__ = ["ControlPlane", "pause"]

#: One connection and one answer. The whole call, with its retries, has its own limit.
_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 30.0
#: A cluster of a thousand hosts is about 2 MB.
_MAX_ANSWER = 64 * 1024 * 1024
#: Answers that say "try again".
_RETRIED = frozenset({429, 502, 503, 504})
_NETWORK = (OSError, StreamClosedError, HTTPStreamClosedError, HTTPTimeoutError)


def pause(attempt: int, chance: float, ceiling: float = 5.0) -> float:
    """Seconds to wait before try number `attempt` (from 0): full jitter, bounded, never zero."""
    return 0.05 + chance * float(min(ceiling, 0.2 * 2.0 ** min(attempt, 16)))


class ControlPlane:
    """One control plane, seen through one profile.

    Parameters
    ----------
    profile : Profile
        Where it is, the token, and the only authority to trust.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.tls = _tls(profile)
        # Its own instance: closing it must not close anybody else's, and a proxy-aware or curl client is never taken.
        self._http = SimpleAsyncHTTPClient(force_instance=True, max_clients=4, max_body_size=_MAX_ANSWER)

    def close(self) -> None:
        """Close what is open. Safe to call twice."""
        self._http.close()

    async def whoami(self, seconds: float = 20) -> Identity:
        """Who the token belongs to, and what the control plane offers."""
        return Identity.parse(await self._call("GET", "/api/v1/whoami", what="who we are", seconds=seconds))

    async def create(self, body: Mapping[str, Any], idempotency_key: str, seconds: float = 60) -> ClusterView:
        """Ask for a cluster. Asking again with the same key gives the same cluster."""
        answer = await self._call(
            "POST",
            "/api/v1/clusters",
            body=body,
            headers={"Idempotency-Key": idempotency_key},
            what="the cluster to be written down",
            seconds=seconds,
        )
        return ClusterView.parse(answer)

    async def cluster(self, name: str, seconds: float = 20) -> ClusterView:
        """One cluster by id or name."""
        return ClusterView.parse(await self._call("GET", _path(name), what=f"the cluster {name}", seconds=seconds))

    async def why(self, name: str, seconds: float = 20) -> list[str]:
        """Why a cluster is alive or has ended, in sentences."""
        answer = await self._call("GET", f"{_path(name)}/why", what=f"why {name} is alive", seconds=seconds)
        said = answer.get("sentences") if isinstance(answer, dict) else None
        return [sentence for sentence in said if isinstance(sentence, str)] if isinstance(said, list) else []

    async def clusters(self, seconds: float = 20) -> list[ClusterView]:
        """All live clusters of the workspace."""
        answer = await self._call("GET", "/api/v1/clusters", what="the list of clusters", seconds=seconds)
        return [ClusterView.parse(view) for view in answer] if isinstance(answer, list) else []

    async def delete(self, name: str, seconds: float = 20) -> ClusterView:
        """Ask for a cluster's end. Asking again does nothing more."""
        return ClusterView.parse(
            await self._call("DELETE", _path(name), what=f"the end of cluster {name}", seconds=seconds)
        )

    async def scale(self, name: str, n_workers: int, going: Iterable[str] = ()) -> ClusterView:
        """Set how many worker hosts a cluster should have, and which are to go whatever the number is."""
        body = {"n_workers": n_workers, "going": sorted(going)}
        return await self._change(name, "scale", body, "take its new size")

    async def adapt(self, name: str, body: Mapping[str, Any]) -> ClusterView:
        """Let the cluster's scheduler choose the number of worker hosts."""
        return await self._change(name, "adapt", body, "scale by itself")

    async def hold(self, name: str, body: Mapping[str, Any]) -> ClusterView:
        """Keep a cluster alive for a time."""
        return await self._change(name, "hold", body, "be held")

    async def release(self, name: str) -> ClusterView:
        """Let go of a cluster that is held."""
        return ClusterView.parse(
            await self._call("DELETE", f"{_path(name)}/hold", what=f"cluster {name} to be held no more", seconds=30)
        )

    async def admit(self, name: str, body: Mapping[str, Any]) -> ClusterView:
        """Hand over the owner's admission of a client key. The same admission again changes nothing."""
        return await self._change(name, "admissions", body, "take the client's admission")

    async def ask(self, name: str, body: Mapping[str, Any]) -> ClusterView:
        """Ask the owner to admit a client key. The same key again changes nothing."""
        return await self._change(name, "admission-requests", body, "take the request to join it")

    async def _change(self, name: str, verb: str, body: Mapping[str, Any], what: str) -> ClusterView:
        answer = await self._call(
            "POST", f"{_path(name)}/{verb}", body=body, what=f"cluster {name} to {what}", seconds=30
        )
        return ClusterView.parse(answer)

    async def follow(
        self, name: str, *, patience: Callable[[], float | None] = lambda: 120.0
    ) -> AsyncGenerator[ClusterView, None]:
        """Every change of a cluster as it happens, the present state first; ends after a terminal state.

        Parameters
        ----------
        name : str
            The cluster's id.
        patience : callable
            Gives the seconds without a connection after which to give up; None never gives up.
        """
        lost_since: float | None = None
        attempt = 0
        while True:
            try:
                async with contextlib.aclosing(stream(self.profile, self.tls, f"{_path(name)}/events")) as events:
                    async for data in events:
                        lost_since, attempt = None, 0
                        view = ClusterView.parse(_json(data))
                        yield view
                        if view.is_terminal:
                            return
            except Refused as refused:
                if refused.status not in _RETRIED:
                    raise _refusal(refused.status, refused.body, f"the events of cluster {name}") from None
                cause: object = refused
            except Disconnected as gone:
                cause = gone
            else:
                cause = "the stream ended"
            lost_since = lost_since if lost_since is not None else time.monotonic()
            limit = patience()
            if limit is not None and time.monotonic() - lost_since > limit:
                raise self._unreachable(f"news of cluster {name}", cause)
            await asyncio.sleep(pause(attempt, random.random(), 10.0))  # noqa: S311 - jitter, not a secret
            attempt += 1

    async def _call(
        self,
        method: str,
        path: str,
        *,
        what: str,
        seconds: float,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """One call with retries. Every call of this API may be repeated without harm."""
        until = time.monotonic() + seconds
        attempt = 0
        while True:
            left = until - time.monotonic()
            cause: object
            try:
                response = await self._http.fetch(
                    self._request(method, path, body, headers or {}, max(1.0, left)), raise_error=False
                )
                # Without `raise_error` the client hands lost connections over as a response.
                if isinstance(response.error, _NETWORK):
                    raise response.error
                if response.code not in _RETRIED:
                    return _answer(response, what)
                cause = f"status {response.code}"
            except ssl.SSLCertVerificationError as error:
                raise self._untrusted(error) from None
            except _NETWORK as error:
                if isinstance(error, StreamClosedError) and isinstance(error.real_error, ssl.SSLCertVerificationError):
                    raise self._untrusted(error.real_error) from None
                cause = error
            delay = pause(attempt, random.random())  # noqa: S311 - jitter, not a secret
            if time.monotonic() + delay >= until:
                raise self._unreachable(what, cause)
            await asyncio.sleep(delay)
            attempt += 1

    def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str], left: float
    ) -> HTTPRequest:
        sent = HTTPHeaders(
            {
                "Authorization": f"Bearer {self.profile.token}",
                "Accept": "application/json",
                "User-Agent": f"towline-python/{__version__}",
                **headers,
            }
        )
        if body is not None:
            sent["Content-Type"] = "application/json"
        content: bytes | None = None
        if body is not None:
            content = json.dumps(body, separators=(",", ":")).encode()
        elif method == "POST":
            content = b""
        return HTTPRequest(
            self.profile.url + path,
            method=method,
            headers=sent,
            body=content,
            connect_timeout=min(_CONNECT_SECONDS, left),
            request_timeout=min(_ANSWER_SECONDS, left),
            # The token goes to the host of the profile and nowhere else.
            follow_redirects=False,
            ssl_options=self.tls,
        )

    def _unreachable(self, what: str, cause: object) -> ClusterError:
        return ClusterError(
            "control_plane_unreachable",
            f"the control plane at {self.profile.url} (profile {self.profile.name!r}) does not answer; "
            f"waited for {what}; "
            f"last: {cause}",
            "See that it runs (`towline server run`) and that this address is right (`towline login`).",
        )

    def _untrusted(self, error: ssl.SSLCertVerificationError) -> ClusterError:
        trusted = self.profile.ca_file or "the system's authorities"
        return ClusterError(
            "control_plane_untrusted",
            f"the certificate of {self.profile.url} is not trusted by {trusted}: {error.verify_message or error}",
            "If the control plane was made anew, log in again: `towline login URL#sha256:…`.",
        )


def _tls(profile: Profile) -> ssl.SSLContext:
    """Trust the profile's authority only, or the system's when it names none."""
    try:
        return ssl.create_default_context(cafile=str(profile.ca_file) if profile.ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise ClusterError(
            "profile_invalid", f"{profile.ca_file} is not a CA certificate: {error}", "Run `towline login` again."
        ) from error


def _path(name: str) -> str:
    return f"/api/v1/clusters/{quote(name, safe='')}"


def _json(data: bytes) -> Any:
    try:
        return json.loads(data) if data else {}
    except ValueError:
        raise ClusterError(
            "answer_invalid",
            "the control plane's answer is not JSON",
            "Something else may listen at this address: check the profile's `url`.",
        ) from None


def _answer(response: HTTPResponse, what: str) -> Any:
    if 200 <= response.code < 300:
        return _json(response.body)
    raise _refusal(response.code, response.body or b"", what)


def _refusal(status: int, body: bytes, what: str) -> ClusterError:
    """A problem document, or whatever came in its place, as an error."""
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    if isinstance(problem, dict) and isinstance(problem.get("code"), str):
        message = problem.get("detail") or problem.get("title") or problem["code"]
        return ClusterError(problem["code"], str(message), str(problem.get("remedy") or ""))
    if status == 401:
        return ClusterError(
            "unauthorised", "the control plane does not accept the profile's token", "Run `towline login` again."
        )
    if status == 404:
        return ClusterError(
            "not_found", f"the control plane does not know {what}", "`towline cluster list` shows what there is."
        )
    return ClusterError(
        "control_plane_refused", f"the control plane answered status {status} when asked for {what}", "See its log."
    )
