"""Signs requests as botocore does: one JSON list of requests on standard input, one JSON list of `Authorization` back."""

from __future__ import annotations

import datetime
import json
import sys
from unittest import mock

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials


def signed(asked: dict) -> str:
    """The header for one request."""
    request = AWSRequest(
        method=asked["method"], url=f"http://{asked['host']}{asked['path']}", headers=dict(asked["headers"]),
        data=asked["body"].encode(), params=dict(asked["query"]),
    )  # fmt: skip
    keys = Credentials(asked["id"], asked["secret"], asked["token"])
    moment = datetime.datetime.fromtimestamp(asked["now"], datetime.UTC)
    with mock.patch("botocore.auth.get_current_datetime", lambda *_, **__: moment):
        SigV4Auth(keys, asked["service"], asked["region"]).add_auth(request)
    return request.headers["Authorization"]


print(json.dumps([signed(asked) for asked in json.load(sys.stdin)]))
