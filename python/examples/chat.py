# SPDX-License-Identifier: Apache-2.0

"""A conversation that outlives what holds it: `make chat`.

Starts a cluster of four ranks and asks a model of transformers a question. While it answers, a rank is killed, and then
the Python process that runs the model. A new one goes on from what the cluster holds.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PROMPT = "Why do ships made of steel float? Explain it to a child, in a few sentences."
RANK_FALLS_AT, PYTHON_FALLS_AT = 15, 35
COLUMNS = 100


class Screen:
    """Writes an answer as it comes, in lines, to a terminal or to anything else."""

    def __init__(self) -> None:
        self._column = 0

    def write(self, text: str) -> None:
        """Writes a piece of the answer; a word that begins behind the last column begins a line."""
        for place, line in enumerate(text.split("\n")):
            if place or (self._column + len(line) > COLUMNS and line.startswith(" ")):
                print()
                self._column = 0
            piece = line if self._column else line.lstrip(" ")
            print(piece, end="", flush=True)
            self._column += len(piece)

    def note(self, text: str) -> None:
        """Writes a line of its own."""
        print(("\n" if self._column else "") + f"    [{text}]", flush=True)
        self._column = 0


class Cluster:
    """Four ranks and a coordinator in a directory, as `dcpctl up` starts them."""

    def __init__(self, directory: str, programs: Path) -> None:
        self._directory = directory
        self._dcpctl = str(programs / "dcpctl")
        self.endpoint = f"unix:{directory}/coordinator.sock"
        self.start()

    def start(self) -> None:
        """Starts those that do not run, and waits until the cluster is ready."""
        command = [self._dcpctl, "up", "--ranks", "4", "--dir", self._directory, "--detach"]
        subprocess.run(command, check=True, capture_output=True)

    def stop(self) -> None:
        subprocess.run([self._dcpctl, "down", "--dir", self._directory], check=True, capture_output=True)

    def kill(self, name: str) -> int:
        """Sends SIGKILL to a daemon, and waits until it is gone."""
        daemons = json.loads(Path(self._directory, "pids.json").read_text())["daemons"]
        pid = int(next(daemon["process"]["pid"] for daemon in daemons if daemon["name"] == name))
        descriptor = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        select.select([descriptor], [], [])
        os.close(descriptor)
        return pid


class Speaker:
    """A Python process that runs the model; see ``chat_process.py``."""

    def __init__(self, *arguments: str) -> None:
        script = str(Path(__file__).with_name("chat_process.py"))
        self.process = subprocess.Popen([sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True)

    def events(self) -> Iterator[dict[str, object]]:
        """What it says, until it ends or is killed."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield json.loads(line)
        if self.process.wait() > 0:
            raise SystemExit(f"{self.process.args} ended with {self.process.returncode}")

    def kill(self) -> int:
        self.process.kill()
        self.process.wait()
        return self.process.pid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="?", default=PROMPT)
    parser.add_argument("--programs", type=Path, default=Path(".build/release"), help="where dcpctl is")
    parser.add_argument("--models", type=Path, default=Path(".build/models"), help="where the unpacked model is kept")
    options = parser.parse_args()
    # Socket paths have 107 bytes, so not below the working directory.
    with tempfile.TemporaryDirectory(prefix="dcp-chat-") as directory:
        cluster = Cluster(directory + "/c", options.programs)
        try:
            status = converse(cluster, options.prompt, str(options.models))
        finally:
            cluster.stop()
    sys.exit(status)


def converse(cluster: Cluster, prompt: str, models: str) -> int:
    """The conversation; 0 when it went on from the cache, with the answer of a model that nobody interrupted."""
    screen = Screen()
    print("SmolLM2-135M-Instruct through transformers; its KV cache is in the stores of 4 ranks.\n")
    print(f"> {prompt}\n")
    answer: list[int] = []
    held = 0
    for question in ([prompt], []):
        speaker = Speaker(models, cluster.endpoint, *question)
        for event in speaker.events():
            if "unpacking" in event:
                screen.note(f"unpacking the model into {event['unpacking']}, once")
            elif "held" in event:
                held = int(str(event["held"]))
                screen.note(
                    f"Python {speaker.process.pid} found {event['tokens']} tokens of `chat-1` in the cluster: keys and "
                    f"values of {held} read from there, {event['prefilled']} prefilled"
                )
            elif "own" in event:
                is_same = event["own"] == answer
                verdict = "the same" if is_same else "NOT the same"
                print(f"\n\n{len(answer)} tokens, {verdict} as without a cluster and kills.")
                return 0 if is_same and held > 0 else 1
            # The process that goes on begins with tokens that have been seen, but were not yet in the cache.
            elif event["number"] == len(answer):
                answer.append(int(str(event["token"])))
                screen.write(str(event["text"]))
                if len(answer) == RANK_FALLS_AT:
                    pid, start = cluster.kill("rank-2"), time.monotonic()
                    cluster.start()
                    screen.note(f"kill -9 {pid}: rank 2; started again, ready after {time.monotonic() - start:.1f} s")
                if len(answer) == PYTHON_FALLS_AT:
                    screen.note(f"kill -9 {speaker.kill()}: Python, with the model and all it knew")
                    break
    return 1


if __name__ == "__main__":
    main()
