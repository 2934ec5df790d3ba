# SPDX-License-Identifier: Apache-2.0

"""``python -m dcp_attention.check``, and the table of architectures in the documentation."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

import dcp_support
import pytest
from huggingface.support import small

from dcp_attention.check.__main__ import main
from dcp_attention.check.architectures import ARCHITECTURES, REFUSED, configuration

if TYPE_CHECKING:
    from pathlib import Path

ARTICLE = dcp_support.REPOSITORY / "Sources/DCPCore/DCPCore.docc/Transformers.md"
ROW = re.compile(r"^\| `(\w+)` \| (.*) \| (\w+) \|.*\|$", re.MULTILINE)


def test_a_directory_with_weights(
    tmp_path: Path, running: dcp_support.LocalCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    small("gemma2", attention="eager").save_pretrained(tmp_path)
    assert main([str(tmp_path), "--cluster", running.endpoint, "--lengths", "5,40", "--tokens", "8", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["verdict"] == "equal"
    assert [prompt["length"] for prompt in report["prompts"]] == [5, 40]
    assert all(prompt["equal"] == 8 for prompt in report["prompts"])
    assert dict(report["layers"]) == {
        "8 heads on 2 of 16, window 24, soft cap 50": 2,
        "8 heads on 2 of 16, soft cap 50": 2,
    }


def test_a_configuration_over_a_cluster_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configuration("qwen3", num_hidden_layers=9).save_pretrained(tmp_path)
    assert main([str(tmp_path / "config.json"), "--layers", "2", "--lengths", "5", "--tokens", "4"]) == 0
    printed = capsys.readouterr().out
    assert "2 layers: 8 heads on 2 of 16" in printed
    assert printed.endswith("EQUAL\n")


def test_exit_statuses(tmp_path: Path, running: dcp_support.LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--cluster", running.endpoint, "--lengths", "5", "--tokens", "4"]
    assert main(["--architectures", "llama", "mpt", *options]) == 3
    assert "REFUSED: It has its own attention code" in capsys.readouterr().out
    assert main([str(tmp_path / "nothing"), *options]) == 2
    for wrong in (["--dtype", "f8"], ["--lengths", "5,abc"], ["--lengths", ""], ["--tokens", "0"], ["--ranks", "-1"]):
        with pytest.raises(SystemExit) as usage:
            main(["--architectures", "llama", *wrong])
        assert usage.value.code == 2
        assert wrong[0] in capsys.readouterr().err
    with pytest.raises(SystemExit) as usage:
        main(["--architectures", "lama", *options])
    assert usage.value.code == 2
    assert "`lama` is none of llama, mistral" in capsys.readouterr().err


def test_no_cluster(
    running: dcp_support.LocalCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--architectures", "llama", "--cluster", "tcp:nowhere"]) == 4
    assert "tcp:nowhere" in capsys.readouterr().err
    # A dcpctl that fails, and none.
    (tmp_path / "dcpctl").symlink_to("/bin/false")
    monkeypatch.setenv("DCP_BIN", str(tmp_path))
    assert main(["--architectures", "llama"]) == 4
    assert "ended with 1" in capsys.readouterr().err
    (tmp_path / "dcpctl").unlink()
    monkeypatch.setenv("PATH", "")
    monkeypatch.chdir(tmp_path)
    assert main(["--architectures", "llama"]) == 4
    assert "`dcpctl` is neither in" in capsys.readouterr().err


def test_an_error_of_the_check_is_no_difference(
    running: dcp_support.LocalCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """More memory than there is: torch raises a RuntimeError."""
    options = ["--cluster", running.endpoint, "--lengths", "5", "--tokens", "4"]
    monkeypatch.setitem(ARCHITECTURES, "llama", {"vocab_size": 1 << 50})
    assert main(["--architectures", "llama", *options]) == 5
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert "The check itself failed with RuntimeError, and nothing is known of the model." in printed


def test_a_difference_is_seen(running: dcp_support.LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemons' attention with a scale that is off by a hundredth."""
    from transformers import AttentionInterface

    from dcp_attention.transformers import dcp_attention

    def off(*arguments: Any, scaling: float, **others: Any) -> Any:
        return dcp_attention(*arguments, **others | {"scaling": scaling * 1.01})

    monkeypatch.setitem(AttentionInterface._global_mapping, "dcp", off)
    assert main(["--architectures", "llama", "--cluster", running.endpoint]) == 1


@pytest.mark.parametrize("kv_format", ["int8", "fp8"])
def test_a_cache_of_bytes_is_off_by_what_it_rounds(
    running: dcp_support.LocalCluster, capsys: pytest.CaptureFixture[str], kv_format: str
) -> None:
    options = ["--cluster", running.endpoint, "--kv-format", kv_format, "--tokens", "8", "--json"]
    main(["--architectures", "llama", *options])
    (report,) = json.loads(capsys.readouterr().out)
    assert (report["dtype"], report["kv_format"]) == ("f32", kv_format)
    # A scale for each row, and a word for each key of int8.
    assert report["bytes_per_token"] == 4 * 2 * (2 * (16 + 4) + (4 if kv_format == "int8" else 0))
    for prompt in report["prompts"]:
        # Far more than another order of sums does, and what the model's own attention over rounded rows shows.
        assert 1e-3 * prompt["scale"] < prompt["difference"] <= prompt["tolerance"] < 0.5 * prompt["scale"]
    assert main(["--architectures", "deepseek_v2", *options]) == 3


def test_the_table_of_architectures(running: dcp_support.LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    """The article has what the command prints: each architecture's layers or why it is refused, and the verdict."""
    some = (
        list(ARCHITECTURES)
        if os.environ.get("WHOLE_GRID")
        else ["qwen2", "gemma4_text", "deepseek_v2", "gpt_bigcode", "falcon"]
    )
    main(["--architectures", *some, "--markdown", "--cluster", running.endpoint, "--lengths", "60", "--tokens", "12"])
    table = {name: found for name, *found in ROW.findall(ARTICLE.read_text())}
    assert set(table) == set(ARCHITECTURES)
    assert sum(verdict == "equal" for _, verdict in table.values()) >= 25
    assert {name for name, (_, verdict) in table.items() if verdict == "refused"} == set(REFUSED)
    for name, *found in ROW.findall(capsys.readouterr().out):
        assert found == table[name], name
