"""``lingbot-eval datasets``: what there is, what a card says, fetching it, and whether a copy is what it should be."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lingbot_eval.cli import output
from lingbot_eval.errors import ConfigError
from lingbot_eval.registry import load_plugins
from lingbot_eval.settings import nearest

if TYPE_CHECKING:
    from lingbot_eval.datasets.cards import Card
    from lingbot_eval.datasets.check.check import DatasetCheck, SceneCheck
    from lingbot_eval.datasets.fetch import FetchPlan

FINE, PROBLEMS = 0, 1
_MARKS = {"problem": "PROBLEM", "warning": "warning", "note": "       "}


def datasets_arguments(parser: argparse.ArgumentParser) -> None:
    """Sub-commands and their options."""
    parser.set_defaults(do=run)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="the datasets that can be read")
    listing.add_argument("--markdown", action="store_true", help="the documents' table, made from the cards")
    show = actions.add_parser("show", help="a dataset's card: source, licence, layout, protocol, published numbers")
    show.add_argument("name", metavar="NAME")
    fetch = actions.add_parser("fetch", help="download from the official addresses and lay out as it is read")
    fetch.add_argument("name", metavar="NAME")
    fetch.add_argument("scenes", metavar="SCENE", nargs="*", help="only these; the protocol's if none is named")
    fetch.add_argument("--root", metavar="DIR", type=Path, required=True, help="folder to fetch into")
    fetch.add_argument("--card", metavar="FILE", type=Path, help="a card of your own, with your mirror's addresses")
    fetch.add_argument("--yes", action="store_true", help="agree to licence and size without being asked")
    fetch.add_argument("--dry-run", action="store_true", help="list what would be fetched")
    check = actions.add_parser("check", help="examine a copy on disk: layout, counts, images, depth, poses, convention")
    check.add_argument("name", metavar="NAME")
    check.add_argument("--root", metavar="DIR", type=Path, required=True, help="the folder described under 'layout'")
    check.add_argument("--scene", metavar="SCENE", action="append", default=[], help="only this (may be given again)")
    check.add_argument(
        "--option",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="an option of the dataset, e.g. split=all (may be given again)",
    )
    check.add_argument("--decode", action="store_true", help="read every image and depth map whole")
    check.add_argument(
        "--figures",
        metavar="DIR",
        type=Path,
        help="write a picture of the convention test of each scene here",
    )
    prepare = actions.add_parser("prepare", help="turn a raw release into the layout that is read (resumable)")
    prepare.add_argument("name", metavar="NAME", help="oxford_spires")
    prepare.add_argument("raw", metavar="RAW", type=Path, help="folder of the raw sequences")
    prepare.add_argument("out", metavar="OUT", type=Path, help="where the prepared scenes go")
    for action in (listing, show, fetch, check, prepare):
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON document")
        action.add_argument(
            "--plugin", metavar="FILE_OR_MODULE", action="append", default=argparse.SUPPRESS, help="adds datasets"
        )


def run(args: argparse.Namespace) -> int:
    """Do one action; ``check`` returns 1 when something is wrong with the data."""
    load_plugins()
    if args.action == "list":
        return _list(args)
    if args.action == "prepare":
        return _prepare(args)
    if args.action == "fetch":
        return _fetch(args)
    return _show(args) if args.action == "show" else _check(args)


def _list(args: argparse.Namespace) -> int:
    from lingbot_eval.datasets.cards import card_names, download_word, load_card, markdown_table, size_in_words

    cards = [load_card(name) for name in card_names()]
    if args.json:
        about = [(card.name, card.title, card.source.licence, download_word(card)) for card in cards]
        output.as_json([dict(zip(("name", "title", "licence", "download"), each, strict=True)) for each in about])
    elif args.markdown:
        output.line(markdown_table().rstrip("\n"))
    else:
        for card in cards:
            protocol = f"stride {card.protocol.stride}, {size_in_words(card.protocol.size)}"
            output.line(f"{card.name:18} {card.title:44} {download_word(card) or '–':8} {protocol}")
    return FINE


def _show(args: argparse.Namespace) -> int:
    from lingbot_eval.datasets.cards import load_card

    card = load_card(args.name)
    if args.json:
        output.as_json(card.model_dump(mode="json"))
        return FINE
    output.line("\n".join(_card_lines(card)))
    return FINE


def _card_lines(card: Card) -> list[str]:
    from lingbot_eval.datasets.cards import size_in_words

    protocol = card.protocol
    fields = {
        "what": card.description,
        "from": card.source.url or "–",
        "licence": card.source.licence,
        "cite": card.source.citation or "–",
        "layout": card.layout,
        **_download_lines(card),
        "scenes": card.scenes,
        "frames": ", ".join(f"{scene} {frames or '?'}" for scene, frames in card.expected_scenes.items()) or "any",
        **{f"without {name}": reason for name, reason in card.scenes_left_out.items()},
        **{f"without views of {name}": reason for name, reason in card.views_left_out.items()},
        "protocol": ", ".join(
            [
                *([protocol.split] if protocol.split else []),
                f"stride {protocol.stride}",
                size_in_words(protocol.size),
                f"depth {protocol.min_depth:g} to {protocol.max_depth:g} m",
            ]
        ),
        "metrics": ", ".join(protocol.metrics) or "none",
        "thresholds": ", ".join(f"{name} {value:g}" for name, value in protocol.thresholds.items()) or "none",
    }
    lines = [f"{card.name}: {card.title}", *(f"  {name}: {text}" for name, text in fields.items())]
    lines += [f"  note: {note}" for note in protocol.notes]
    for row in card.published:
        values = ", ".join(f"{name} {value:g}" for name, value in row.values.items())
        where = row.source + (f", {row.scenes} scenes" if row.scenes else "")
        lines.append(f"  published, {row.method} ({where}): {values}")
    return lines


def _download_lines(card: Card) -> dict[str, str]:
    if card.download is None:
        return {}
    lines = {"page": card.download.page}
    if card.download.files:
        lines["fetch"] = f"lingbot-eval datasets fetch {card.name} --root DIR"
    return lines | {f"step {number}": text for number, text in enumerate(card.download.steps, start=1)}


def _fetch(args: argparse.Namespace) -> int:
    from lingbot_eval.api import fetch_dataset
    from lingbot_eval.datasets.cards import load_card

    card = load_card(args.name, args.card)
    if card.download is not None and not card.download.files and not args.json:
        for name, text in {**_download_lines(card), "layout": card.layout}.items():
            output.line(f"{name}: {text}")
    agreed = False

    def agree(plan: FetchPlan) -> bool:
        nonlocal agreed
        for line in _plan_lines(plan):
            (output.note if args.json else output.line)(line)
        agreed = bool(plan.parts) and not args.dry_run and (args.yes or _answer(plan))
        return agreed

    with output.Bars("B", unit_scale=True) as bar:
        plan = fetch_dataset(args.name, args.root, args.scenes, card=args.card, agree=agree, progress=bar)
    if args.json:
        files = [{"url": source.url, "bytes": source.size, "parts": source.parts} for source in plan.sources]
        document = {"dataset": card.name, "licence": card.source.licence, "root": str(plan.root), "files": files}
        output.as_json(document | {"parts": plan.parts, "there": plan.there, "fetched": agreed})
    elif agreed or not plan.parts:
        output.line(f"{plan.root} has {', '.join((*plan.there, *plan.parts))}")
        output.line(f"next: lingbot-eval datasets check {card.name} --root {plan.root}")
    return FINE if agreed or args.dry_run or not plan.parts else PROBLEMS


def _plan_lines(plan: FetchPlan) -> list[str]:
    card = plan.card
    lines = [f"{card.name}: {card.title}", f"  licence: {card.source.licence}"]
    lines += [f"  cite: {card.source.citation}"] if card.source.citation else []
    lines += [f"  page: {card.download.page}"] if card.download is not None else []
    lines += [f"  {_bytes(source.size):>10}  {source.url}" for source in plan.sources]
    lines += [f"  already in {plan.root}: {', '.join(plan.there)}"] if plan.there else []
    return [*lines, f"  to download: {_total(plan)}"]


def _total(plan: FetchPlan) -> str:
    unknown = f", and {plan.unknown} of a size that nobody says" if plan.unknown else ""
    known = len(plan.sources) - plan.unknown
    return f"{_bytes(plan.size)} in {known} {'file' if known == 1 else 'files'}{unknown}"


def _bytes(size: int | None) -> str:
    from tqdm import tqdm

    return "?" if size is None else tqdm.format_sizeof(size, "B")


def _answer(plan: FetchPlan) -> bool:
    """What the person says to licence and size. Raises ConfigError where there is nobody to ask."""
    if not sys.stdin.isatty():
        raise ConfigError(
            f"{plan.card.name}: expected a terminal to ask whether to download {_total(plan)}; give --yes to agree"
        )
    output.note(f"Download {_total(plan)} to {plan.root}, under the licence above? [y/N]")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _check(args: argparse.Namespace) -> int:
    from lingbot_eval.datasets.cards import load_card
    from lingbot_eval.datasets.check.check import examine
    from lingbot_eval.datasets.registry import open_adapter
    from lingbot_eval.resources import expanded

    card = load_card(args.name)
    root = expanded(args.root)
    adapter = open_adapter(args.name, root, _options(args.option))
    with output.Bars("frame") as bar:
        checked = examine(card, adapter, root, tuple(args.scene), bar if args.decode else None)
    figures = _figures(checked, args.figures) if args.figures is not None else []
    if args.json:
        output.as_json(_document(checked, figures))
    else:
        _print_check(checked)
        for figure in figures:
            output.line(f"figure: {figure}")
    return PROBLEMS if checked.problems else FINE


def _prepare(args: argparse.Namespace) -> int:
    from lingbot_eval.datasets.convert import prepare_scene, scenes_in
    from lingbot_eval.errors import DataError
    from lingbot_eval.resources import expanded

    if args.name != "oxford_spires":
        raise ConfigError(
            f"only oxford_spires has something to prepare, found {args.name!r}{nearest(args.name, ['oxford_spires'])}; "
            "the others are read as is"
        )
    raw, out = expanded(args.raw), expanded(args.out)
    done: dict[str, int] = {}
    failed: dict[str, str] = {}
    for scene in scenes_in(raw):
        try:
            with output.bar(None, scene, "image") as bar:
                done[scene] = prepare_scene(raw, scene, out, lambda bar=bar: bar.update() and None)  # type: ignore[misc]
        except (DataError, ConfigError) as error:
            failed[scene] = str(error)
            output.note(f"error: {scene}: {error}")
    if args.json:
        output.as_json({"prepared": done, "failed": failed, "out": str(out)})
    else:
        for scene, images in done.items():
            output.line(f"{scene}: {images} images in {out / scene}")
    return PROBLEMS if failed else FINE


def _options(given: list[str]) -> dict[str, Any]:
    from lingbot_eval.files.yaml_documents import parse_value

    options = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"--option {text}: expected KEY=VALUE, such as split=all")
        options[key] = parse_value(value)
    return options


def _print_check(checked: DatasetCheck) -> None:
    output.line(f"{checked.dataset} in {checked.root}")
    for finding in checked.findings:
        output.line(f"  {_MARKS[finding.level]} {finding.check}: {finding.text}")
    for scene in checked.scenes:
        frames = "not readable" if scene.frames is None else f"{scene.frames} frames{_speed(scene)}"
        output.line(f"{scene.scene}: {frames}")
        for finding in scene.findings:
            output.line(f"  {_MARKS[finding.level]} {finding.check}: {finding.text}")
    scenes = f"{len(checked.scenes)} {'scene' if len(checked.scenes) == 1 else 'scenes'}"
    problems = f"{checked.problems or 'no'} {'problem' if checked.problems == 1 else 'problems'}"
    output.line(f"{scenes}, {problems}")


def _speed(scene: SceneCheck) -> str:
    if not scene.frames or scene.seconds <= 0:
        return ""
    return f", metadata checked at {scene.frames / scene.seconds:,.0f} images/s"


def _document(checked: DatasetCheck, figures: list[Path]) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "dataset": checked.dataset,
        "root": checked.root,
        "problems": checked.problems,
        "findings": [asdict(finding) for finding in checked.findings],
        "scenes": [
            {
                "scene": scene.scene,
                "frames": scene.frames,
                "metadata_seconds": scene.seconds,
                "findings": [asdict(finding) for finding in scene.findings],
                "convention": _verdict(scene),
            }
            for scene in checked.scenes
        ],
        "figures": [str(figure) for figure in figures],
    }


def _verdict(scene: SceneCheck) -> dict[str, Any] | None:
    from dataclasses import asdict

    verdict = scene.convention
    if verdict is None:
        return None
    return {
        "clear": verdict.clear,
        "as_expected": verdict.is_expected,
        "ties": [asdict(fit) for fit in verdict.ties],
        "fits": [asdict(fit) for fit in verdict.fits],
        "pairs": verdict.pairs,
        "declared_focal_px": verdict.declared_focal,
        "image_focal_px": verdict.image_focal,
        "fitted_focal_px": verdict.fitted_focal,
        "depth_factor": verdict.depth_factor,
    }


def _figures(checked: DatasetCheck, folder: Path) -> list[Path]:
    """One picture a scene whose convention was tested. Raises StoreError when the disk refuses."""
    from lingbot_eval.files.atomic import writing
    from lingbot_eval.stored.disk import component

    files = []
    for scene in checked.scenes:
        if scene.convention is None:
            continue
        from lingbot_eval.datasets.check.convention import write_convention_figure

        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        name = component(scene.scene.replace("/", "-"))
        path = folder / f"{component(checked.dataset)}-{name}-convention.png"
        write_convention_figure(path, f"{checked.dataset} / {scene.scene}", scene.convention)
        files.append(path)
    return files
