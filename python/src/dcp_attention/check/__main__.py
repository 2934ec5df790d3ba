# SPDX-License-Identifier: Apache-2.0

"""``python -m dcp_attention.check``: see ``--help``."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import traceback
from typing import TYPE_CHECKING

from dcp_attention import CacheFormat, Cluster, InvalidModel, ServiceError
from dcp_attention.check.local import LocalCluster, NotStarted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dcp_attention.check.compare import Report

_EXAMPLES = """\
examples:
  python -m dcp_attention.check HuggingFaceTB/SmolLM2-135M-Instruct
  python -m dcp_attention.check ./model/model.Q4_1.gguf --dtype bf16 --lengths 10,1800
  python -m dcp_attention.check ./config.json --layers 2 --json
  python -m dcp_attention.check ./model --kv-format int8
  python -m dcp_attention.check --architectures llama gemma3_text --markdown

exit status: 0 all equal, or tied; 1 some differ; 2 usage, or no such model; 3 some are refused, and none differs; 4 no
cluster, or it failed; 5 anything else went wrong, such as memory for the model, and nothing is known of it
"""
_EXIT = {"equal": 0, "tied": 0, "refused": 3, "differs": 1}


def main(arguments: list[str] | None = None) -> int:
    """Checks the models in the arguments, prints the reports, and returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except (ServiceError, NotStarted) as error:
        print(error, file=sys.stderr)
        return 4
    except OSError as error:
        print(error, file=sys.stderr)
        return 2
    except Exception as error:
        # Python would end with 1, which says that the daemons compute something else.
        traceback.print_exc()
        print(
            f"The check itself failed with {type(error).__name__}, and nothing is known of the model. Free memory or "
            "install what is missing; otherwise report the lines above.",
            file=sys.stderr,
        )
        return 5


def _run(options: argparse.Namespace) -> int:
    if options.architectures is not None:
        from dcp_attention.check.architectures import ARCHITECTURES

        options.architectures = options.architectures or list(ARCHITECTURES)
        for name in options.architectures:
            if name not in ARCHITECTURES:
                _parser().error(f"argument --architectures: `{name}` is none of {', '.join(ARCHITECTURES)}")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with _cluster(options) as cluster:
        reports = [_check(name, cluster, options) for name in options.architectures or [options.model]]
    if options.json:
        print(json.dumps([report.as_dict() for report in reports], indent=2))
    elif options.markdown:
        print("\n".join(_table(reports)))
    else:
        for report in reports:
            print("\n".join(_lines(report)))
    verdicts = {report.verdict for report in reports}
    return next((_EXIT[verdict] for verdict in ("differs", "refused") if verdict in verdicts), 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dcp_attention.check",
        description="Generates with a model's own attention and with the daemons', compares tokens and logits, and "
        "says whether the daemons serve the model exactly. Without --cluster it starts a cluster on this machine "
        "for the time being.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "model",
        nargs="?",
        metavar="MODEL_OR_CONFIG",
        help="a directory or a name that from_pretrained takes, a GGUF file, or a config.json, whose model gets "
        "random weights",
    )
    what.add_argument(
        "--architectures",
        nargs="*",
        metavar="NAME",
        help="small random models of these architectures; of all that it knows without names",
    )
    parser.add_argument("--cluster", metavar="ENDPOINT", help="unix:PATH or tcp:HOST:PORT of a coordinator")
    parser.add_argument("--ranks", type=_count, default=2, help="of the cluster that is started (2)")
    parser.add_argument(
        "--dtype", choices=("f32", "bf16", "f16"), help="of the weights; the model's own, or f32 for random ones"
    )
    parser.add_argument(
        "--kv-format",
        type=_kv_format,
        metavar="FORMAT",
        help="of the daemons' cache: bf16, f16, f32, int8 or fp8; the dtype of the weights",
    )
    parser.add_argument(
        "--prompt", action="append", metavar="TEXT", help="a prompt, for a model with a tokenizer; may be repeated"
    )
    parser.add_argument(
        "--lengths", type=_counts, default=(10, 60, 200), help="of random prompts, in tokens (10,60,200)"
    )
    parser.add_argument("--tokens", type=_count, default=32, help="how many to generate (32)")
    parser.add_argument(
        "--layers", type=_count, default=4, help="at most how many of a config's layers the random model gets (4)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of random weights and prompts (1)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the model")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--markdown", action="store_true", help="print a table")
    return parser


def _kv_format(name: str) -> CacheFormat:
    try:
        return CacheFormat.named(name)
    except InvalidModel as error:
        raise argparse.ArgumentTypeError(error.message) from error


def _count(text: str) -> int:
    with contextlib.suppress(ValueError):
        if (number := int(text)) > 0:
            return number
    raise argparse.ArgumentTypeError(f"`{text}` is no number from 1 on.")


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_count(part) for part in text.split(","))


@contextlib.contextmanager
def _cluster(options: argparse.Namespace) -> Iterator[Cluster]:
    with contextlib.ExitStack() as stack:
        endpoint = options.cluster or stack.enter_context(LocalCluster(options.ranks)).endpoint
        yield stack.enter_context(Cluster.connect(endpoint))


def _check(name: str, cluster: Cluster, options: argparse.Namespace) -> Report:
    from dcp_attention.check.compare import compare
    from dcp_attention.check.loading import Source

    source = Source(name, options.seed, options.layers, options.trust_remote_code)
    prompts = None
    if options.prompt:
        tokenizer = source.tokenizer()
        prompts = [tokenizer(text)["input_ids"] for text in options.prompt]
    return compare(
        source,
        cluster,
        prompts,
        lengths=options.lengths,
        dtype=options.dtype,
        kv_format=options.kv_format,
        tokens=options.tokens,
    )


def _lines(report: Report) -> list[str]:
    """A report for people."""
    cache = "" if report.kv_format in ("", report.dtype) else f", a cache of {report.kv_format}"
    lines = [f"{report.model}, {report.dtype}{cache}, compared with `{report.attention}`"]
    lines += [f"  {count} layers: {words}" for words, count in report.layers]
    for prompt in report.prompts:
        margin = "" if prompt.margin is None else f", the model's own preferred by at most {prompt.margin:.1e}"
        lines.append(
            f"  {prompt.length} tokens: {prompt.equal} of {prompt.generated} equal{margin}, logits differ by "
            f"{prompt.difference:.1e} of {prompt.scale:.1f}, at most {prompt.tolerance:.1e}: {prompt.verdict}"
        )
    return [*lines, f"{report.verdict.upper()}{': ' + report.reason if report.reason else ''}"]


def _table(reports: list[Report]) -> list[str]:
    """Reports as a table of Markdown, as the documentation has it."""
    lines = ["| architecture | layers | verdict | largest difference of a logit |", "|---|---|---|---|"]
    for report in reports:
        layers = "; ".join(f"{count} x {words}" for words, count in report.layers)
        worst = max(report.prompts, key=lambda prompt: prompt.difference, default=None)
        difference = "" if worst is None else f"{worst.difference:.0e} of {worst.scale:.1f}"
        lines.append(
            f"| `{report.model}` | {layers or (report.reason or '').split('. ')[0]} | {report.verdict} | {difference} |"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
