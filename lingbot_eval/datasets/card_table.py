"""The table of datasets for docs/datasets.md, made from the cards."""

from __future__ import annotations

from lingbot_eval.datasets.cards import Card, card_names, load_card
from lingbot_eval.datasets.prepare.resize import SizeSettings
from lingbot_eval.tables import markdown_grid


def markdown_table() -> str:
    """All shipped cards, one row each, as a Markdown table that ends with a line break."""
    header = ("dataset", "name", "scenes", "protocol", "metrics", "download", "licence")
    rows = [header, *(_row(load_card(name)) for name in card_names())]
    return "".join(f"{line}\n" for line in markdown_grid(rows, ["left"] * len(header), padded=False))


def size_in_words(size: SizeSettings) -> str:
    """What frames are resized to, in a few words: ``width 518``, ``cover 504×280``."""
    words = f"width {size.width}" if size.mode == "width" else f"{size.mode} {size.width}×{size.height}"
    return words if size.filter == "bicubic" else f"{words}, {size.filter.capitalize()}"


def download_word(card: Card) -> str | None:
    """``fetch`` for what a command downloads, ``by hand`` for what takes a person, None for what is made or brought."""
    if card.download is None:
        return None
    return "fetch" if card.download.files else "by hand"


def _row(card: Card) -> tuple[str, ...]:
    title = f"[{card.title}]({card.source.url})" if card.source.url else card.title
    protocol = card.protocol
    words = [f"stride {protocol.stride}", size_in_words(protocol.size)]
    cells = (
        title,
        f"`{card.name}`",
        _scenes(card),
        ", ".join([*([protocol.split] if protocol.split else []), *words]),
        ", ".join(protocol.metrics) or "–",
        download_word(card) or "–",
        card.source.licence,
    )
    return tuple(cell.replace("|", "\\|") for cell in cells)


def _scenes(card: Card) -> str:
    """How many scenes the protocol has: those listed, else as many as its published rows are the mean of."""
    published = max((row.scenes or 0 for row in card.published), default=0)
    count = len(card.expected_scenes) or published
    return str(count) if count else "any"
