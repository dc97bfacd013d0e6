"""EC2 as moto has it, with its authentication on: signatures, session tokens and policies count.

Serves until standard input closes. Prints one line of JSON at the start (`port`, two instances, and the keys of a role that
may end instances and of one that may not), then answers each line with one line: the states of the instances.
"""

from __future__ import annotations

import json
import logging
import os
import sys

#: Two roles, a policy for each, their keys and the instances; every call after that is judged.
SETUP = 7
os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = str(SETUP)

import boto3
from moto.server import ThreadedMotoServer

REGION = "eu-central-1"


def main() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()

    def client(service: str, keys: dict | None = None):
        keys = keys or {"AccessKeyId": "none", "SecretAccessKey": "none", "SessionToken": None}
        return boto3.client(
            service, region_name=REGION, endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id=keys["AccessKeyId"], aws_secret_access_key=keys["SecretAccessKey"],
            aws_session_token=keys["SessionToken"],
        )  # fmt: skip

    def role(name: str, actions: list[str]) -> dict:
        identities = client("iam")
        trust = {"Version": "2012-10-17", "Statement": []}
        made = identities.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
        identities.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=json.dumps(policy))
        assumed = client("sts").assume_role(RoleArn=made["Role"]["Arn"], RoleSessionName=name)
        return {key: assumed["Credentials"][key] for key in ("AccessKeyId", "SecretAccessKey", "SessionToken")}

    host = role("host", ["ec2:TerminateInstances", "ec2:DescribeInstances"])
    stranger = role("stranger", ["ec2:DescribeInstances"])
    made = client("ec2").run_instances(ImageId="ami-12c6146b", MinCount=2, MaxCount=2)
    ids = [instance["InstanceId"] for instance in made["Instances"]]
    print(json.dumps({"port": port, "instances": ids, "host": host, "stranger": stranger}), flush=True)
    watching = client("ec2", host)
    for _ in sys.stdin:
        seen = watching.describe_instances(InstanceIds=ids)
        found = [instance for reservation in seen["Reservations"] for instance in reservation["Instances"]]
        print(json.dumps({one["InstanceId"]: one["State"]["Name"] for one in found}), flush=True)
    server.stop()


main()
