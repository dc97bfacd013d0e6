"""CloudWatch Logs as moto has it, with its authentication on: signatures and policies count.

Serves until standard input closes. Prints one line of JSON at the start (`port`, and the keys of a user who may write to one
group and read it back), then answers each line `events STREAM` with one line: the messages of that stream, in order.
"""

from __future__ import annotations

import json
import logging
import os
import sys

#: Making the user, its policy, its key and the group; every call after that is judged.
SETUP = 4
os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = str(SETUP)

import boto3
from moto.server import ThreadedMotoServer

REGION, GROUP = "eu-central-1", "/towline/moto"
ACTIONS = ["logs:CreateLogStream", "logs:PutLogEvents", "logs:GetLogEvents"]


def main() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()

    def client(service: str, key: str = "none", secret: str = "none"):
        return boto3.client(
            service, region_name=REGION, endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id=key, aws_secret_access_key=secret,
        )  # fmt: skip

    identities = client("iam")
    identities.create_user(UserName="host")
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ACTIONS, "Resource": "*"}]}
    identities.put_user_policy(UserName="host", PolicyName="logs", PolicyDocument=json.dumps(policy))
    key = identities.create_access_key(UserName="host")["AccessKey"]
    client("logs").create_log_group(logGroupName=GROUP)
    logs = client("logs", key["AccessKeyId"], key["SecretAccessKey"])
    print(json.dumps({"port": port, "id": key["AccessKeyId"], "secret": key["SecretAccessKey"]}), flush=True)
    for line in sys.stdin:
        messages, asked = [], {"logGroupName": GROUP, "logStreamName": line.split()[1], "startFromHead": True}
        while True:
            try:
                answer = logs.get_log_events(**asked)
            except logs.exceptions.ResourceNotFoundException:
                break
            messages += [event["message"] for event in answer["events"]]
            if not answer["events"] or answer["nextForwardToken"] == asked.get("nextToken"):
                break
            asked["nextToken"] = answer["nextForwardToken"]
        print(json.dumps(messages), flush=True)
    server.stop()


main()
