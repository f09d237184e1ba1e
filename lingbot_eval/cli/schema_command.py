"""``lingbot-eval schema``: the JSON schema of experiment files, for editors that check and complete YAML."""

from __future__ import annotations

import argparse
from typing import Any

from lingbot_eval.cli import output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is described."""
    parser.add_argument(
        "what", nargs="?", choices=("experiment", "study", "card"), default="experiment", help="default: experiment"
    )


def run(args: argparse.Namespace) -> int:
    """Print it; plugins that are loaded are in it."""
    from lingbot_eval.registry import load_plugins

    load_plugins()
    schema: dict[str, Any]
    if args.what == "study":
        from lingbot_eval.scaling.settings import Study

        schema = Study.model_json_schema()
    elif args.what == "card":
        from lingbot_eval.datasets.cards import Card

        schema = Card.model_json_schema()
    else:
        from lingbot_eval.runs.experiment import Experiment

        schema = Experiment.model_json_schema()
    # A schema is a document of another standard: it carries no version of ours.
    output.plain_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
    return 0
