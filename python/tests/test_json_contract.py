# SPDX-License-Identifier: Apache-2.0

"""Every document that `dcpctl --json` prints is as its schema says, and every command has one."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dcp_support
import jsonschema
import pytest
from dcp_support import FIXTURES, REPOSITORY, binary

SCHEMAS = REPOSITORY / "schema"
TRACE = FIXTURES / "smollm2-trace.safetensors"
JSON = Any


def schema(name: str) -> dict[str, JSON]:
    """A document's schema, as it is published: fields that it does not name are allowed."""
    document: dict[str, JSON] = json.loads((SCHEMAS / f"{name}.json").read_text())
    return document


def closed(part: JSON) -> JSON:
    """A schema that allows no field that it does not name: what this release prints has to be described."""
    if isinstance(part, list):
        return [closed(one) for one in part]
    if not isinstance(part, dict):
        return part
    result = {key: closed(value) for key, value in part.items()}
    if isinstance(part.get("properties"), dict) and "additionalProperties" not in part:
        result["additionalProperties"] = False
    return result


def commands(command: dict[str, JSON], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The commands that have `--json`."""
    for sub in command.get("subcommands", []):
        if sub["commandName"] != "help":
            yield from commands(sub, (*path, sub["commandName"]))
    names = [name["name"] for argument in command.get("arguments", []) for name in argument.get("names", [])]
    if "json" in names:
        yield path


def all_commands() -> set[str]:
    """As their schemas are called: `sequence-list`."""
    text = subprocess.run(
        [binary("dcpctl"), "--experimental-dump-help"], capture_output=True, text=True, check=True
    ).stdout
    return {"-".join(path) for path in commands(json.loads(text)["command"])}


class Tool:
    """`dcpctl --json`, and what it has printed, by command."""

    def __init__(self, coordinator: str) -> None:
        self.environment = os.environ | {"DCP_COORDINATOR": coordinator}
        self.documents: dict[str, list[JSON]] = {}
        self.errors: list[JSON] = []

    def run(self, *arguments: object, status: int = 0, words: int = 2, lines: bool = False) -> JSON:
        """Runs a command whose name has so many words."""
        command = [binary("dcpctl"), *map(str, arguments), "--json"]
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=120,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert result.returncode == status, f"{command}: {result.returncode}\n{result.stdout}\n{result.stderr}"
        if not result.stdout:
            self.errors.append(json.loads(result.stderr.strip().split("\n")[-1]))
            return self.errors[-1]
        name = "-".join(map(str, arguments[:words]))
        found = [json.loads(line) for line in result.stdout.splitlines()] if lines else [json.loads(result.stdout)]
        self.documents.setdefault(name, []).extend(found)
        return found[-1]


def damage(tool: Tool, store: Path) -> None:
    """Changes a byte of a store that is a value's, and verifies it: LMDB's own pages are passed over."""
    data = store / "data.mdb"
    for page in range(8, data.stat().st_size // 4096):
        with data.open("r+b") as file:
            file.seek(page * 4096 + 2048)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
        command = [binary("dcpctl"), "verify", "--store", str(store), "--json"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        with data.open("r+b") as file:
            file.seek(page * 4096 + 2048)
            file.write(bytes([byte]))
        if result.returncode == 74 and result.stdout:
            tool.documents["verify"].append(json.loads(result.stdout))
            return
    pytest.fail("no page of the store is a value's")


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tool]:
    """Has run every command, on a cluster that goes through what commands tell of."""
    work = tmp_path_factory.mktemp("contract")
    # A directory of its own, with a path that is short enough for sockets.
    with dcp_support.cluster(2) as cluster:
        tool = Tool(cluster.endpoint)
        run = tool.run
        run("submit", TRACE, "--sequence", "chat", "--expect", FIXTURES / "smollm2-trace-expected.safetensors", words=1)
        for command in ("status", "ranks", "health", "doctor", "kernels", "verify"):
            run(command, words=1)
        run("top", "--once", "--interval", "200ms", words=1, lines=True)
        model = run("model", "list")[-1]["name"]
        run("model", "show", model)
        run("model", "add", "llama", "--config", FIXTURES / "model-configs" / "llama.json", "--dry-run")
        for kind in ("gemma2", "gemma3_text", "deepseek_v3"):
            run(
                "model",
                "add",
                kind,
                "--config",
                FIXTURES / "model-configs" / f"{kind}.json",
                "--revision",
                "1",
                "--dry-run",
            )
        run("model", "add", "llama", "--config", FIXTURES / "model-configs" / "llama.json", "--revision", "2024-07-23")
        run("model", "show", "llama")
        run("model", "list")
        run("model", "remove", "llama")
        run("sequence", "fork", "chat", "retry", 200)
        run("sequence", "truncate", "retry", 100)
        run("sequence", "pin", "chat")
        run("sequence", "unpin", "chat")
        run("sequence", "retain", "chat", "--priority", 3, "--ttl", 3600)
        run("sequence", "list")
        run("sequence", "show", "chat")
        run("sequence", "export", "chat", work / "chat.safetensors")
        run("sequence", "import", work / "chat.safetensors", "--name", "again")
        (work / "ids.json").write_text(json.dumps([1, 2, 3]))
        run("sequence", "match", "--model", model, "--ids", "1,2,3")
        run("sequence", "close", "retry")
        run("store", "list")
        run("backup", work / "backup", words=1)
        (work / "restored").mkdir()
        run("restore", work / "backup", "--to", work / "restored", words=1)
        certificates = work / "certificates"
        run("certs", "init", "--directory", certificates, "--ranks", 1, "--client", "alice")
        run("certs", "add", "--directory", certificates, "--client", "bob", "--rights", "read")
        run("certs", "renew", "--directory", certificates)
        run("certs", "show", certificates)
        for arguments, status in (
            (("sequence", "show", "nobody"), 65),
            (("status", "--coordinator", "unix:/nowhere"), 69),
            (("store", "replace", 0, "--yes"), 65),
            (("sequence", "truncate", "chat", "many"), 64),
            (("sequence", "show"), 64),
        ):
            run(*arguments, status=status)
        # A rank that is away, its store lost, and another in its place.
        cluster.kill("rank-1")
        run("status", words=1)
        run("health", words=1, status=75)
        run("store", "accept-older", 1, "--yes", "--wait", "0s")
        for file in Path(cluster.directory, "rank-1").iterdir():
            file.unlink()
        run("store", "replace", 1, "--yes", "--wait", "0s")
        cluster.start()
        run("store", "list")
        run("submit", TRACE, "--sequence", "damaged", words=1)
        run("down", "--dir", cluster.directory, words=1)
        damage(tool, Path(cluster.directory, "rank-0"))
        run("up", "--dir", cluster.directory, "--detach", words=1)
        yield tool


def test_every_command_has_a_schema() -> None:
    """And every schema a command."""
    published = {path.stem.removeprefix("dcpctl-") for path in SCHEMAS.glob("dcpctl-*.json")}
    assert published == all_commands()


@pytest.mark.parametrize("name", sorted(path.stem for path in SCHEMAS.glob("*.json")))
def test_schemas_are_schemas(name: str) -> None:
    """And say whose they are."""
    document = schema(name)
    jsonschema.Draft202012Validator.check_schema(document)
    assert document["$id"].endswith(f"/{name}.json")
    assert document["title"]


def test_documents(tool: Tool) -> None:
    """What each command prints is what its schema says, and no more."""
    assert set(tool.documents) == all_commands()
    for name, documents in tool.documents.items():
        validator = jsonschema.Draft202012Validator(closed(schema(f"dcpctl-{name}")))
        for document in documents:
            errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]
            assert not errors, f"{name}: {errors}\n{json.dumps(document, indent=1)}"


def test_errors(tool: Tool) -> None:
    """So is every error."""
    validator = jsonschema.Draft202012Validator(closed(schema("error")))
    assert len(tool.errors) >= 5
    for error in tool.errors:
        validator.validate(error)
    assert {error["error"]["exit_status"] for error in tool.errors} >= {64, 65, 69, 75}


def names(part: JSON) -> Iterator[str]:
    """All fields that a schema names."""
    if isinstance(part, dict):
        if isinstance(part.get("properties"), dict):
            yield from part["properties"]
        for value in part.values():
            yield from names(value)
    elif isinstance(part, list):
        for value in part:
            yield from names(value)


@pytest.mark.parametrize("name", sorted(path.stem for path in SCHEMAS.glob("*.json")))
def test_units(name: str) -> None:
    """Each kind of quantity has one unit, and keys are in snake_case."""
    for key in names(schema(name)):
        assert re.fullmatch(r"[a-z][a-z0-9_]*", key), key
        assert not re.search(r"(milliseconds|nanoseconds|minutes|_ms|_us|_ns|kib|mib|gib|kilobytes|megabytes)$", key), (
            key
        )
