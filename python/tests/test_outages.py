# SPDX-License-Identifier: Apache-2.0

"""Daemons that are killed while a client steps: callers see a delay, and answers of the same bits."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dcp_support
import numpy as np
import pytest
from dcp_support import LocalCluster, seeded

from dcp_attention import (
    AsyncCluster,
    AttentionOutput,
    Claimed,
    Cluster,
    Commit,
    Entry,
    Fork,
    InvalidRequest,
    Model,
    ModelDescription,
    NotReady,
    PositionMismatch,
    RankUnavailable,
    RetryableError,
    Sequence,
    TokensLost,
)

LAYERS, HQ, HKV, D = 3, 6, 2, 32
DESCRIPTION = ModelDescription.uniform(LAYERS, query_heads=HQ, kv_heads=HKV, key_dim=D)


@pytest.fixture(scope="module")
def frail() -> Iterator[LocalCluster]:
    """Three ranks that tests kill and start again."""
    with dcp_support.cluster(3, "--interleave", 4) as cluster:
        yield cluster


@pytest.fixture
def client(frail: LocalCluster) -> Iterator[Cluster]:
    """A client that waits for as long as a machine with nothing else to do never needs."""
    with Cluster.connect(frail.endpoint, retry_for=120) as cluster:
        yield cluster


class Restarter:
    """Kills daemons beside the caller, and starts them again."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self._threads: list[threading.Thread] = []

    def strike(self, *daemons: str) -> None:
        """Begins to kill daemons; what the caller does next meets that anywhere."""

        def run() -> None:
            for daemon in daemons:
                self._cluster.kill(daemon)
            self._cluster.start()

        self.join()
        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def join(self) -> None:
        """Waits until what was killed is there again."""
        while self._threads:
            self._threads.pop().join()


@pytest.fixture
def restarter(frail: LocalCluster) -> Iterator[Restarter]:
    """Everything is there again after the test."""
    restarter = Restarter(frail)
    yield restarter
    restarter.join()


class Text:
    """Random queries, keys and values, and the answers to them."""

    def __init__(self, tokens: int, random: np.random.Generator) -> None:
        self.q = random.normal(size=(LAYERS, tokens, HQ, D)).astype(np.float32)
        self.k = random.normal(size=(LAYERS, tokens, HKV, D)).astype(np.float32)
        self.v = random.normal(size=(LAYERS, tokens, HKV, D)).astype(np.float32)

    def tensors(self, layer: int, start: int, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of some tokens of a layer."""
        rows = slice(start, end)
        return self.q[layer, rows], self.k[layer, rows], self.v[layer, rows]

    def step(
        self, client: Cluster, sequence: Sequence, start: int, end: int, *, commits: bool = False
    ) -> list[np.ndarray]:
        """All layers of some tokens, which the last may commit."""
        entry, commit = [Entry(sequence, start, end - start)], [Commit(sequence, end)] if commits else []
        return [
            client.step(
                layer, entry, *self.tensors(layer, start, end), commits=commit if layer == LAYERS - 1 else []
            ).out
            for layer in range(LAYERS)
        ]


def equal(found: list[list[np.ndarray]], expected: list[list[np.ndarray]]) -> None:
    """Compares answers to the bit."""
    for index, (some, others) in enumerate(zip(found, expected, strict=True)):
        for layer, (a, b) in enumerate(zip(some, others, strict=True)):
            np.testing.assert_array_equal(a, b, err_msg=f"step {index}, layer {layer}")


def spans(prompt: int, tokens: int) -> list[tuple[int, int]]:
    """A prompt in two chunks, then token by token."""
    return [(0, prompt // 2), (prompt // 2, prompt), *((n, n + 1) for n in range(prompt, tokens))]


def undisturbed(client: Cluster, model: Model, text: Text, steps: list[tuple[int, int]]) -> list[list[np.ndarray]]:
    """The answers without an outage."""
    sequence = client.open("undisturbed", model)
    try:
        return [text.step(client, sequence, *span) for span in steps]
    finally:
        client.close_sequences([sequence])


@pytest.fixture
def model(client: Cluster) -> Model:
    return client.register_model("frail", DESCRIPTION)


@pytest.mark.parametrize("commits", ["never", "between", "with steps"])
def test_killed_ranks_are_a_delay(client: Cluster, model: Model, restarter: Restarter, commits: str) -> None:
    _, random = seeded()
    text, steps = Text(60, random), spans(40, 60)
    expected = undisturbed(client, model, text, steps)
    sequence = client.open(f"killed-{commits}", model)
    found = []
    strikes = set(random.choice(len(steps), 5, replace=False).tolist())
    for index, (start, end) in enumerate(steps):
        if index in strikes:
            restarter.strike(f"rank-{random.integers(3)}")
        found.append(text.step(client, sequence, start, end, commits=commits == "with steps"))
        if commits == "between" and index % 3 == 0:
            client.commit([Commit(sequence, end)])
    equal(found, expected)
    restarter.join()
    client.commit([Commit(sequence, 60)])
    rows = client.rows(sequence, 1)
    np.testing.assert_array_equal(rows.keys.view(np.uint16), dcp_support.bf16(text.k[1]))
    client.close_sequences([sequence])


def test_all_daemons_at_once(client: Cluster, model: Model, restarter: Restarter) -> None:
    _, random = seeded()
    text, steps = Text(30, random), spans(20, 30)
    expected = undisturbed(client, model, text, steps)
    sequence = client.open("all", model)
    found = [text.step(client, sequence, *span) for span in steps[:6]]
    restarter.strike("coordinator", "rank-0", "rank-1", "rank-2")
    found += [text.step(client, sequence, *span) for span in steps[6:]]
    equal(found, expected)
    client.close_sequences([sequence])


def test_a_coordinator_that_is_killed_ends_no_step(client: Cluster, model: Model, restarter: Restarter) -> None:
    _, random = seeded()
    text, steps = Text(30, random), spans(20, 30)
    expected = undisturbed(client, model, text, steps)
    sequence = client.open("coordinator", model)
    found = [text.step(client, sequence, *span) for span in steps[:4]]
    restarter.strike("coordinator")
    found += [text.step(client, sequence, *span) for span in steps[4:]]
    restarter.join()
    client.commit([Commit(sequence, 30, token_ids=range(30))])
    child = client.fork(sequence, "coordinator-child", 30)
    equal(found, expected)
    client.close_sequences([sequence, child])


def test_the_middle_of_a_forward_pass(client: Cluster, frail: LocalCluster, model: Model) -> None:
    """Layers differ by a token when the rank goes; the other sequence is idle meanwhile and has lost its tokens,
    too.
    """
    _, random = seeded()
    text, steps = Text(12, random), spans(10, 12)
    expected = undisturbed(client, model, text, steps)
    sequence, idle = client.open_many(["middle", "idle"], model)
    found = [text.step(client, sequence, *span) for span in steps[:3]]
    also = [text.step(client, idle, *span) for span in steps[:3]]
    entry = [Entry(sequence, 11, 1)]
    outs = [client.step(0, entry, *text.tensors(0, 11, 12)).out]
    frail.kill("rank-1")
    frail.start()
    outs += [client.step(layer, entry, *text.tensors(layer, 11, 12)).out for layer in (1, 2)]
    equal([*found, outs], expected)
    equal([*also, text.step(client, idle, 11, 12)], expected)
    client.close_sequences([sequence, idle])


def test_forks_made_of_what_was_lost_since(client: Cluster, frail: LocalCluster, model: Model) -> None:
    _, random = seeded()
    text, steps = Text(14, random), spans(10, 14)
    expected = undisturbed(client, model, text, steps)
    parent = client.open("parent", model)
    found = [text.step(client, parent, *span) for span in steps[:4]]
    (before,) = client.fork_many([Fork(parent, "before", 11)])
    frail.kill("rank-2")
    frail.start()
    (after,) = client.fork_many([Fork(parent, "after", 12)])
    for child, length in ((before, 11), (after, 12)):
        again = [text.step(client, child, n, n + 1) for n in range(length, 14)]
        equal(found[: length - 8] + again, expected)
    client.cut(parent, 5)
    assert client.status(parent).length == 5
    client.close_sequences([parent, before, after])


def test_commits_and_forks_meet_a_kill(client: Cluster, model: Model, restarter: Restarter) -> None:
    _, random = seeded()
    text = Text(20, random)
    sequence = client.open("struck", model)
    text.step(client, sequence, 0, 16)
    restarter.strike("rank-0")
    client.commit([Commit(sequence, 8, token_ids=range(8))])
    restarter.strike("rank-1")
    child = client.fork(sequence, "struck-child", 12)
    restarter.strike("coordinator")
    matched, length = client.open_matching("struck-matched", model, range(20))
    restarter.strike("rank-2")
    client.cut_many([(child, 10), (sequence, 4)])
    restarter.join()
    assert length == 8
    assert [client.status(s).length for s in (sequence, child, matched)] == [4, 10, 8]
    text.step(client, child, 10, 20)
    text.step(client, matched, 8, 20)
    restarter.strike("rank-0", "coordinator")
    client.close_sequences([sequence, child, matched])
    restarter.join()
    assert {"struck", "struck-child", "struck-matched"}.isdisjoint(known.name for known in client.sequences())


def test_what_another_process_had_appended_is_lost_and_said_so(
    client: Cluster, frail: LocalCluster, model: Model
) -> None:
    _, random = seeded()
    text = Text(20, random)
    sequence = client.open("lost", model)
    text.step(client, sequence, 0, 10)
    client.commit([Commit(sequence, 6)])
    with Cluster.connect(frail.endpoint, retry_for=120) as heir:
        same = heir.open("lost")
        assert heir.resume(same) == 10
        text.step(heir, same, 10, 12)
        frail.kill("rank-0")
        frail.start()
        with pytest.raises(TokensLost, match="ends at 6 .* send the tokens from 6 on again") as caught:
            text.step(heir, same, 12, 13)
        assert (caught.value.length, caught.value.sequence) == (6, "lost")
        text.step(heir, same, 6, 20)
        with pytest.raises(Claimed):
            text.step(client, sequence, 10, 11)
        heir.close_sequences([same])


@pytest.mark.parametrize(("position", "end"), [(50, 51), (0, 60), (0, 120)])
@pytest.mark.parametrize("gone", ["rank-1", "coordinator"])
def test_a_wrong_position_in_an_outage_deletes_nothing(
    client: Cluster, frail: LocalCluster, model: Model, restarter: Restarter, gone: str, position: int, end: int
) -> None:
    """What a new client takes for the end is not: what lies beyond it is another's, committed or not."""
    _, random = seeded()
    text = Text(120, random)
    sequence = client.open(f"beyond-{gone}-{position}-{end}", model)
    text.step(client, sequence, 0, 100)
    if gone != "coordinator":
        client.commit([Commit(sequence, 100)])
    with Cluster.connect(frail.endpoint, retry_for=120) as other:
        same = other.open(sequence.name)
        frail.kill(gone)
        restarter.strike()
        with pytest.raises(PositionMismatch):
            text.step(other, same, position, end)
        there = other.status(same)
        assert (there.committed, there.layers) == (0 if gone == "coordinator" else 100, (100,) * LAYERS)
        assert other.resume(same) == 100
        text.step(other, same, 100, 120)
        other.close_sequences([same])


def test_a_fork_by_a_name_that_is_taken_deletes_nothing(
    client: Cluster, frail: LocalCluster, model: Model, restarter: Restarter
) -> None:
    _, random = seeded()
    text = Text(60, random)
    parent, taken = client.open_many(["forked", "taken"], model)
    text.step(client, parent, 0, 20)
    text.step(client, taken, 0, 50)
    client.commit([Commit(taken, 40)])
    with Cluster.connect(frail.endpoint, retry_for=120) as other:
        mine = other.open("forked")
        assert other.resume(mine) == 20
        frail.kill("coordinator")
        restarter.strike()
        # An answer may have been lost: the name is taken for that of an earlier attempt's fork.
        child = other.fork(mine, "taken", 20)
        with pytest.raises(PositionMismatch):
            text.step(other, child, 20, 21)
        assert (other.status(child).committed, other.status(child).length) == (40, 50)
        other.close_sequences([mine, child])


def test_without_retries_every_failure_is_the_callers(frail: LocalCluster) -> None:
    _, random = seeded()
    text = Text(20, random)
    with Cluster.connect(frail.endpoint, retry_for=0) as client:
        model = client.register_model("frail", DESCRIPTION)
        sequence = client.open("unretried", model)
        text.step(client, sequence, 0, 10)
        frail.kill("rank-0")
        with pytest.raises(RetryableError):
            text.step(client, sequence, 10, 11)
        with pytest.raises((NotReady, RankUnavailable)):
            client.commit([Commit(sequence, 10)])
        frail.start()
        client.topology(60)
        assert client.resume(sequence) == 0
        text.step(client, sequence, 0, 20)
        client.close_sequences([sequence])


def test_an_outage_that_lasts_too_long_says_who_is_missing(frail: LocalCluster, model: Model) -> None:
    _, random = seeded()
    text = Text(20, random)
    with Cluster.connect(frail.endpoint, retry_for=1) as client:
        sequence = client.open("too-long", model)
        text.step(client, sequence, 0, 10)
        frail.kill("rank-1")
        with pytest.raises(RetryableError, match=r"rank 1.* did not recover within 1 s; raise retry_for"):
            text.step(client, sequence, 10, 11)
        frail.start()
        client.topology(60)
        text.step(client, sequence, 10, 20)
        client.close_sequences([sequence])


def test_asyncio_waits_outages_out(frail: LocalCluster, client: Cluster, model: Model, restarter: Restarter) -> None:
    _, random = seeded()
    texts, steps = [Text(24, random) for _ in range(3)], spans(16, 24)
    expected = [undisturbed(client, model, text, steps) for text in texts]

    async def converse(cluster: AsyncCluster, text: Text, sequence: Sequence) -> list[list[np.ndarray]]:
        found = []
        for start, end in steps:
            if sequence.name == "async-1" and start in (8, 20):
                restarter.strike("rank-0" if start == 8 else "rank-2")
            entry = [Entry(sequence, start, end - start)]
            answers = [await cluster.step(layer, entry, *text.tensors(layer, start, end)) for layer in range(LAYERS)]
            found.append([answer.out for answer in answers])
        return found

    async def main() -> None:
        async with await AsyncCluster.connect(frail.endpoint, retry_for=120) as cluster:
            sequences = await cluster.open_many([f"async-{index}" for index in range(3)], model)
            found = await asyncio.gather(
                *(converse(cluster, text, sequence) for text, sequence in zip(texts, sequences, strict=True))
            )
            for some, others in zip(found, expected, strict=True):
                equal(some, others)
            await cluster.close_sequences(sequences)

    asyncio.run(main())


def stop(pid: int) -> None:
    """Stops a process, and waits until no thread of it runs: a busy machine lets some answer steps before that."""
    os.kill(pid, signal.SIGSTOP)
    while not all(" T " in (task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()):
        # The kernel tells nobody but its parent.
        time.sleep(0.001)


def test_a_rank_that_hangs_is_given_up_after_the_steps_time(frail: LocalCluster) -> None:
    _, random = seeded()
    text = Text(20, random)
    with Cluster.connect(frail.endpoint, retry_for=120) as client:
        sequence = client.open("hung", client.register_model("frail", DESCRIPTION))
        text.step(client, sequence, 0, 10)
        client.commit([Commit(sequence, 10)])
    with Cluster.connect(frail.endpoint, step_timeout=0.3, retry_for=0) as client:
        assert client.resume(sequence) == 10
        pid = frail.pid("rank-1")
        stop(pid)
        try:
            with pytest.raises(RetryableError):
                text.step(client, sequence, 10, 11)
        finally:
            os.kill(pid, signal.SIGCONT)
    with Cluster.connect(frail.endpoint, retry_for=120) as client:
        sequence = client.open("hung")
        length = client.resume(sequence)
        text.step(client, sequence, length, 20)
        client.close_sequences([sequence])


def test_a_step_that_is_cancelled_can_be_made_again(frail: LocalCluster, client: Cluster, model: Model) -> None:
    _, random = seeded()
    text, steps = Text(24, random), spans(16, 24)
    expected = undisturbed(client, model, text, steps)

    async def main() -> None:
        async with await AsyncCluster.connect(frail.endpoint, retry_for=120) as cluster:
            sequence = await cluster.open("cancelled", model)
            found = []
            for start, end in steps:
                entry = [Entry(sequence, start, end - start)]
                answers = []
                for layer in range(LAYERS):
                    step = asyncio.ensure_future(cluster.step(layer, entry, *text.tensors(layer, start, end)))
                    # As far as some turns of the loop bring it: not begun, sent, or answered.
                    for _ in range(int(random.integers(0, 6))):
                        await asyncio.sleep(0)
                    step.cancel()
                    try:
                        answer = await step
                    except asyncio.CancelledError:
                        answer = await cluster.step(layer, entry, *text.tensors(layer, start, end))
                    answers.append(answer.out)
                found.append(answers)
            equal(found, expected)
            await cluster.close_sequences([sequence])

    asyncio.run(main())


def test_a_cut_waits_for_its_turn(frail: LocalCluster, model: Model) -> None:
    _, random = seeded()
    text = Text(24, random)

    async def main() -> None:
        async with await AsyncCluster.connect(frail.endpoint, retry_for=120) as cluster:
            sequence = await cluster.open("turns", model)

            async def step(start: int, end: int) -> None:
                for layer in range(LAYERS):
                    await cluster.step(layer, [Entry(sequence, start, end - start)], *text.tensors(layer, start, end))

            await step(0, 10)
            await asyncio.gather(
                cluster.step(0, [Entry(sequence, 10, 10)], *text.tensors(0, 10, 20)), cluster.cut(sequence, 5)
            )
            assert (await cluster.status(sequence)).layers == (5,) * LAYERS
            frail.kill("rank-1")
            frail.start()
            await step(5, 12)
            await cluster.close_sequences([sequence])

    asyncio.run(main())


def test_a_call_that_waits_for_the_first_is_not_the_first(frail: LocalCluster, model: Model) -> None:
    """Its failure says nothing about the first one's tokens, which are kept through an outage."""
    _, random = seeded()
    text = Text(24, random)

    async def main() -> None:
        async with await AsyncCluster.connect(frail.endpoint, retry_for=120) as cluster:
            sequence = await cluster.open("firsts", model)

            async def step(layer: int, start: int, end: int) -> None:
                await cluster.step(layer, [Entry(sequence, start, end - start)], *text.tensors(layer, start, end))

            # A cut uses nothing, and has its turn before both.
            cut, first, second = await asyncio.gather(
                cluster.cut(sequence, 0), step(0, 0, 10), step(0, 15, 16), return_exceptions=True
            )
            assert (cut, first) == (None, None)
            assert isinstance(second, PositionMismatch)
            frail.kill("rank-1")
            frail.start()
            for layer in range(1, LAYERS):
                await step(layer, 0, 10)
            await step(0, 10, 12)
            await cluster.close_sequences([sequence])

    asyncio.run(main())


def test_what_is_lost_can_be_cut_off(client: Cluster, frail: LocalCluster, model: Model) -> None:
    _, random = seeded()
    text = Text(20, random)
    sequence = client.open("cut-off", model)
    text.step(client, sequence, 0, 10)
    client.commit([Commit(sequence, 6)])
    with Cluster.connect(frail.endpoint, retry_for=120) as heir:
        same = heir.open("cut-off")
        assert heir.resume(same) == 10
        frail.kill("rank-0")
        frail.start()
        heir.cut(same, 5)
        text.step(heir, same, 5, 20)
        heir.close_sequences([same])


def test_a_child_process_leaves_its_parents_tokens(client: Cluster, frail: LocalCluster, model: Model) -> None:
    """What the parent has committed since is more than the child knew of."""
    _, random = seeded()
    text = Text(30, random)
    sequence = client.open("inherited", model)
    text.step(client, sequence, 0, 10, commits=True)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(120)
            os.read(reading, 1)
            status = 0 if client.status(sequence).length == 20 else 2
            text.step(client, sequence, 20, 25)
        except Exception:
            status = 3
        finally:
            os._exit(status)
    text.step(client, sequence, 10, 20, commits=True)
    frail.kill("rank-1")
    frail.start()
    os.write(writing, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(reading)
    os.close(writing)
    assert client.status(sequence).committed == 20
    # The child has taken the sequence over, as any client would with its first step.
    with pytest.raises(Claimed):
        text.step(client, sequence, 25, 26)
    assert client.resume(sequence) >= 20
    client.close_sequences([sequence])


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, asyncio.CancelledError])
def test_an_interrupted_claim_is_this_clients(
    client: Cluster, model: Model, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
) -> None:
    """The coordinator has given the claim, and the client was interrupted before it knew."""
    _, random = seeded()
    text = Text(20, random)
    sequence = client.open(f"interrupted-{interruption.__name__}", model)
    text.step(client, sequence, 0, 10, commits=True)
    session = client._cluster._session
    ask = session.ask_each

    async def interrupted(*arguments: object) -> None:
        await ask(*arguments)  # type: ignore[arg-type]
        raise interruption

    def interrupt(call: Callable[[], object]) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(session, "ask_each", interrupted)
            with pytest.raises(interruption):
                call()

    # A claim that is renewed after a failure.
    client._cluster._keeper._unsettle([sequence])
    interrupt(lambda: text.step(client, sequence, 10, 11))
    text.step(client, sequence, 10, 11)
    # A claim with which tokens are truncated.
    interrupt(lambda: client.cut(sequence, 5))
    assert client._cluster._claims.good(sequence.id, session.epoch) is None
    client.cut(sequence, 5)
    text.step(client, sequence, 5, 20)
    client.close_sequences([sequence])


def test_a_call_of_several_steps_can_be_made_again(
    client: Cluster, frail: LocalCluster, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails in its second step, for longer than the client waits or because it is interrupted."""
    _, random = seeded()
    text, steps = Text(60, random), [(0, 8), (8, 60)]
    monkeypatch.setattr("dcp_attention._client.plan.FRAME_BYTES", 16 << 10)
    expected = undisturbed(client, model, text, steps)
    with Cluster.connect(frail.endpoint, retry_for=0.5) as brief:
        sequences = brief.open_many(["steps-outage", "steps-interrupt"], model)
        keeper = brief._cluster._keeper
        send = keeper.send

        def kill() -> None:
            frail.kill("rank-1")

        def interrupt() -> None:
            raise KeyboardInterrupt

        for sequence, fail, failure in zip(
            sequences, (kill, interrupt), (RetryableError, KeyboardInterrupt), strict=True
        ):
            found = [text.step(brief, sequence, *steps[0])]
            found.append([brief.step(0, [Entry(sequence, 8, 52)], *text.tensors(0, 8, 60)).out])
            sent = 0

            async def struck(*arguments: object, fail: Callable[[], None] = fail) -> AttentionOutput:
                nonlocal sent
                sent += 1
                if sent == 2:
                    fail()
                return await send(*arguments)  # type: ignore[arg-type]

            with monkeypatch.context() as patch:
                patch.setattr(keeper, "send", struck)
                with pytest.raises(failure):
                    brief.step(1, [Entry(sequence, 8, 52)], *text.tensors(1, 8, 60))
            assert sent >= 2
            if fail is kill:
                frail.start()
                brief.topology(60)
            for layer in (1, 2):
                found[1].append(brief.step(layer, [Entry(sequence, 8, 52)], *text.tensors(layer, 8, 60)).out)
            equal(found, expected)
        brief.close_sequences(sequences)


def test_no_call_comes_between_the_steps_of_another(
    frail: LocalCluster, client: Cluster, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, random = seeded()
    text, steps = Text(61, random), [(0, 60), (60, 61)]
    monkeypatch.setattr("dcp_attention._client.plan.FRAME_BYTES", 16 << 10)
    expected = undisturbed(client, model, text, steps)

    async def main() -> None:
        async with await AsyncCluster.connect(frail.endpoint, retry_for=120) as cluster:
            sequence = await cluster.open("between", model)
            calls = [
                cluster.step(layer, [Entry(sequence, start, end - start)], *text.tensors(layer, start, end))
                for start, end in steps
                for layer in range(LAYERS)
            ]
            outs = [answer.out for answer in await asyncio.gather(*calls)]
            equal([outs[:LAYERS], outs[LAYERS:]], expected)
            await cluster.close_sequences([sequence])

    asyncio.run(main())


def test_a_first_step_beyond_the_end_is_told_where_it_is(
    client: Cluster, frail: LocalCluster, model: Model, restarter: Restarter
) -> None:
    _, random = seeded()
    text = Text(60, random)
    sequence = client.open("short", model)
    text.step(client, sequence, 0, 10, commits=True)
    with Cluster.connect(frail.endpoint, retry_for=120) as other:
        same = other.open(sequence.name)
        frail.kill("rank-1")
        restarter.strike()
        with pytest.raises(PositionMismatch, match=r"10.*50|50.*10") as caught:
            text.step(other, same, 50, 51)
        assert type(caught.value) is PositionMismatch
        text.step(other, same, 10, 20)
        other.close_sequences([same])


def test_the_topology_is_waited_for(client: Cluster, frail: LocalCluster, restarter: Restarter) -> None:
    frail.kill("coordinator")
    with pytest.raises(RetryableError), Cluster.connect(frail.endpoint, retry_for=0):
        pass
    restarter.strike()
    assert client.topology().shape.ranks == 3


def test_calls_under_way_end_with_their_client(frail: LocalCluster, model: Model) -> None:
    async def main() -> None:
        cluster = await AsyncCluster.connect(frail.endpoint, retry_for=120)
        sequence = await cluster.open("closing", model)
        await cluster.status(sequence)
        pid = frail.pid("rank-1")
        stop(pid)
        try:
            calls = [asyncio.create_task(cluster.status(sequence)) for _ in range(2)]
            await asyncio.sleep(0)
            await cluster.close()
            for answer in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(answer, InvalidRequest)
                assert "This client is closed" in answer.message
        finally:
            os.kill(pid, signal.SIGCONT)
        with pytest.raises(InvalidRequest, match="This client is closed"):
            await cluster.status(sequence)
        assert cluster._session._links == {}

    asyncio.run(main())
