"""Which files of a folder are frames and in what order, and which folder of a capture holds them.

Folders from the field hold more than photographs: masks, depth maps, thumbnails, a second copy in another format,
smaller copies for other programs. Feeding them as frames is wrong, and so is leaving a photograph out in silence:
whatever is left out is said in ``notes``, and a photograph that cannot be read here is refused.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lingbot_eval.datasets.listing import folders_in, natural_key, shown
from lingbot_eval.errors import DataError
from lingbot_eval.files.images import HEIF_SUFFIXES, IMAGE_SUFFIXES, unreadable_kind
from lingbot_eval.files.reading import kind_of_entry

_RAW = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".rw2", ".orf", ".pef", ".srw")
_OTHERS = (".jp2", ".j2k", ".jxl", ".jxr", ".ppm", ".pgm", ".pnm", ".tga")
Key = tuple[str, ...]
_PHOTOGRAPHS = (*IMAGE_SUFFIXES, *HEIF_SUFFIXES, *_RAW, *_OTHERS)
# Of two files of one photograph the first of these is taken: what the camera's owner looks at.
_PREFERENCE = {suffix: rank for rank, suffix in enumerate((".jpg", ".jpeg", ".jfif", ".mpo", ".heic", ".heif", ".hif"))}

_COMPANIONS = {
    "masks": "masks?|seg|segm|segmentations?|semantics?|labels?|instances?|alphas?|mattes?|trimaps?|silhouettes?",
    "depth maps": "depths?|disps?|disparity|disparities",
    "normal maps": "normals?",
    "confidence maps": "conf|confidence",
    "thumbnails": "thumbs?|thumbnails?|previews?",
}
"""What a file beside a photograph is → the words in its name that say so."""
_ROLE = {role: re.compile(words) for role, words in _COMPANIONS.items()}
_PICTURE_WORD = re.compile("rgb|colou?r|image|img|frame|photo|pic")
_TOKEN = re.compile(r"[^\W\d_]+|\d+")
_COMPANION_FOLDER = re.compile(
    rf"(?:images?_)?(?:{'|'.join(_COMPANIONS.values())})(?:_\d+)?|@eadir|__macosx", re.IGNORECASE
)
_SCALED = re.compile(r"images_(\d+)", re.IGNORECASE)
_TIMES = (
    (re.compile(r"\d{9,10}\.\d+"), "seconds", "seconds_in_names"),
    (re.compile(r"\d{18,19}"), "nanoseconds", "nanoseconds_in_names"),
)
_DATE = re.compile(r"(?:19|20)\d\d[-_.]?[01]\d[-_.]?[0-3]\d")
_COPY = re.compile(r"(.+?)(?: ?\(\d+\)|[ _-]+(?:- )?copy(?:[ _-]?\d+)?)", re.IGNORECASE)
_EDITED = (
    (re.compile(r"(.*)IMG_E(\d+)", re.IGNORECASE), r"\1IMG_\2"),  # iOS
    (re.compile(r"(.+?)[-_ ]?(?:edited|bearbeitet|modifié|editada|~\d)(?:\(\d+\))?", re.IGNORECASE), r"\1"),
)
"""How phones and their galleries call the edited copy of a photograph → the name of the original."""
_SERIES = 3
"""Names of one kind from which on they are a series."""
_LAST_NUMBER = re.compile(r"(.*?)(\d+)(\D*)", re.DOTALL)


def has_images(folder: Path) -> bool:
    """Whether there is a photograph in it, of a kind that is read here or not. Raises DataError when not listed."""
    return any(not name.startswith(".") for name, _ in _entries(folder))


def images_in(folder: Path) -> tuple[list[str], list[str]]:
    """Names of a folder's frames in natural order, and what was left out of them, a line each.

    Raises DataError for photographs of a kind that cannot be read here.
    """
    notes: list[str] = []
    entries = _entries(folder)
    hidden = [name for name, _ in entries if name.startswith(".")]
    entries = [entry for entry in entries if not entry[0].startswith(".")]
    odd = [f"{name} ({kind})" for name, kind in entries if kind is not None]
    names = [name for name, kind in entries if kind is None]
    names = _without_companions(names, notes)
    names = _without_edited(names, notes)
    names = _without_twins(names, notes)
    if hidden:
        notes.append(_left_out(f"hidden {_files(hidden)}", hidden))
    if odd:
        notes.append(_left_out("what is no file", odd))
    cannot: dict[str, str] = {}
    for name in names:
        if (reason := _unreadable(_suffix(name))) is not None:
            cannot[name] = reason
    if cannot:
        reasons = "; ".join(dict.fromkeys(cannot.values()))
        raise DataError(
            f"{folder}: {len(cannot)} of {len(names)} images cannot be read ({shown(cannot, 4)}): {reasons};"
            " leaving them out would leave holes in the sequence"
        )
    return names, [*notes, *_doubts(names)]


def _doubts(names: Sequence[str]) -> list[str]:
    """What looks like no one sequence, a line each; the frames stay as they are."""
    series: dict[tuple[str, str], list[str]] = {}
    for name in names:
        match = _LAST_NUMBER.fullmatch(_stem(name))
        before, number, after = match.groups() if match is not None else (_stem(name), "", "")
        series.setdefault((_letters(before), _letters(after)), []).append(number)
    lines = []
    first, *others = sorted(series.values(), key=len, reverse=True) or [[]]
    again = [numbers for numbers in others if len(numbers) >= _SERIES and len({*numbers} & {*first}) > len(numbers) / 2]
    if again:
        kinds = [f"{before}0{after} ({len(numbers)})" for (before, after), numbers in series.items()]
        lines.append(
            f"the same numbers come under {len(again) + 1} names ({shown(kinds, 4)}), one behind the other as one"
            " sequence: two cameras? give each a folder of its own"
        )
    stems = {_stem(name) for name in names}
    copies = [name for name in names if (match := _COPY.fullmatch(_stem(name))) is not None and match[1] in stems]
    if copies:
        lines.append(f"{len(copies)} images look like copies of others and are frames, too: {shown(copies, 4)}")
    return lines


def _letters(part: str) -> str:
    return re.sub(r"\d", "", part)


def capture_folders(root: Path) -> tuple[dict[str, Path], list[str]]:
    """Name → folder of images, of the folders in ``root`` that are captures; and what was left out, a line each.

    A folder with images is one, or a folder whose images lie in its ``images`` (COLMAP, nerfstudio). Of ``images``,
    ``images_2``, ``images_4``, … the largest pictures are taken; folders of masks, depth maps and the like beside
    photographs are left out.
    """
    notes: list[str] = []
    there = [name for name in folders_in(root) if has_images(root / name)]
    found = {name: root / name for name in _one_scale(_without_companion_folders(there, notes), notes)}
    for name in folders_in(root):
        if name in there or _COMPANION_FOLDER.fullmatch(name):
            continue
        inner = [other for other in folders_in(root / name) if has_images(root / name / other)]
        inner_notes: list[str] = []
        of_images = [other for other in inner if other.lower() == "images" or _SCALED.fullmatch(other)]
        chosen = _one_scale(of_images, inner_notes)
        if len(chosen) == 1:
            found[name] = root / name / chosen[0]
            notes += [f"{name}: {note}" for note in inner_notes]
    return {name: found[name] for name in sorted(found, key=natural_key)}, notes


def folders_beside(folder: Path) -> list[str]:
    """A line that names the folders with images inside a folder that has images itself; none for none."""
    inner = [name for name in folders_in(folder) if has_images(folder / name)]
    return [f"images in {len(inner)} folders inside are not read: {shown(inner, 6)}"] if inner else []


@dataclass(frozen=True)
class Numbering:
    """Numbers in the names of frames, which rise by ``step`` but for gaps. positions: where each frame stands.

    A frame's position counts the frames that are missing before it.
    """

    first: int
    step: int
    positions: tuple[int, ...]

    @property
    def last(self) -> int:
        """The position of the last frame."""
        return self.positions[-1]

    @property
    def has_gaps(self) -> bool:
        """Whether a number between the first and the last is missing."""
        return self.last >= len(self.positions)

    def gaps(self) -> list[tuple[int, int]]:
        """First and last number of each gap."""
        return [
            (self.first + self.step * (before + 1), self.first + self.step * (later - 1))
            for before, later in itertools.pairwise(self.positions)
            if later - before > 1
        ]


def numbering(names: Sequence[str]) -> Numbering | None:
    """How frames are numbered, by the last number in each name; None where the names do not rise in regular steps."""
    matches = [_LAST_NUMBER.fullmatch(_stem(name)) for name in names]
    parts = [match.groups() for match in matches if match is not None]
    if len(parts) != len(names) or len({(before, after) for before, _, after in parts}) != 1:
        return None
    if _DATE.search(parts[0][0]):  # what follows is the time of day, which knows no second 60
        return None
    return numbering_of([int(number) for _, number, _ in parts])


def numbering_of(numbers: Sequence[int]) -> Numbering | None:
    """`numbering` of frames whose numbers are known already; None for none and for irregular ones."""
    steps = [later - before for before, later in itertools.pairwise(numbers)]
    step = math.gcd(*steps) or 1
    if not numbers or any(other <= 0 for other in steps):
        return None
    positions = tuple((number - numbers[0]) // step for number in numbers)
    # Most steps are the usual one, or no more numbers are missing than there are; else they count something else.
    if 2 * steps.count(step) < len(steps) and positions[-1] >= 2 * len(positions):
        return None
    return Numbering(numbers[0], step, positions)


def time_notes(names: Sequence[str]) -> tuple[str, ...]:
    """A line where all names are times that nobody asked to be read as such; none else."""
    stems = [_stem(name) for name in names]
    for pattern, unit, option in _TIMES:
        if len(stems) > 1 and all(pattern.fullmatch(stem) for stem in stems):
            return (
                f"the images' names look like times in {unit}, and are not read as such: set options.timestamps to"
                f" {option}",
            )
    return ()


def gap_notes(
    numbered: Numbering | None, then: str = "times and poses go by number, so that the others keep theirs"
) -> tuple[str, ...]:
    """A line that says which numbers are missing among numbered frames, and what ``then`` is done; none for none."""
    if numbered is None or not numbered.has_gaps:
        return ()
    missing = numbered.last + 1 - len(numbered.positions)
    gaps = [f"{first}" if first == last else f"{first} to {last}" for first, last in numbered.gaps()]
    return (
        f"{missing} of {numbered.last + 1} numbers {'is' if missing == 1 else 'are'} missing among the images:"
        f" {shown(gaps, 8)}; {then}",
    )


def _entries(folder: Path) -> list[tuple[str, str | None]]:
    """Names with a photograph's suffix in natural order; of each None for a file, else what it is instead."""
    found: list[tuple[str, str | None]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _suffix(entry.name) in _PHOTOGRAPHS:
                    found.append((entry.name, _kind(entry)))
    except OSError as error:
        raise DataError(f"folder {folder} cannot be listed: {error.strerror or error}") from error
    return sorted(found, key=lambda entry: natural_key(entry[0]))


def _kind(entry: os.DirEntry[str]) -> str | None:
    try:
        return None if entry.is_file() else kind_of_entry(entry.stat().st_mode)
    except OSError:
        return None  # a link that leads nowhere stands for a frame: whoever reads it says what is wrong


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 – no Path a file


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122 – no Path a file


def _unreadable(suffix: str) -> str | None:
    if suffix in IMAGE_SUFFIXES:
        return None
    if suffix in HEIF_SUFFIXES:
        return unreadable_kind(suffix)
    kind = "camera raw files" if suffix in _RAW else f"{suffix} files"
    return f"{kind} are not read: convert them to JPEG or PNG"


def _without_companions(names: list[str], notes: list[str]) -> list[str]:
    """Names without masks, depth maps, … of photographs that are there as well."""
    roles = {name: _role(_stem(name)) for name in names}
    pictures: set[Key] = set()
    for name in names:
        if roles[name] is None:
            pictures.update(_keys(_TOKEN.findall(_stem(name).lower())))
    out: dict[str, list[str]] = {}
    for role in _COMPANIONS:
        of_role = {name: found[1] for name in names if (found := roles[name]) is not None and found[0] == role}
        if any(key in pictures for keys in of_role.values() for key in keys):
            out[role] = list(of_role)
    there = {name.lower() for name in names}  # COLMAP calls the mask of a.jpg a.jpg.png
    of_file = [name for name in names if _stem(name).lower() in there]
    if of_file:
        out["masks"] = sorted({*out.get("masks", []), *of_file}, key=natural_key)
    for role, left in out.items():
        notes.append(_left_out(role, left))
    leaving = {name for left in out.values() for name in left}
    return [name for name in names if name not in leaving]


def _role(stem: str) -> tuple[str, tuple[Key, ...]] | None:
    """What a file is by a word in its name, and the keys of the photograph that it may belong to."""
    tokens = _TOKEN.findall(stem.lower())
    for place, token in enumerate(tokens):
        for role, words in _ROLE.items():
            if words.fullmatch(token):
                # 000_mask.png, and 000_mask_1.png: the second of several masks of one photograph.
                return role, (*_keys(tokens[:place] + tokens[place + 1 :]), *_keys(tokens[:place]))
    return None


def _keys(tokens: Sequence[str]) -> list[Key]:
    """What photograph and companion have in common: the numbers in their names, or the last of them (``cam0_12`` and
    ``depth_12``); without any, the words.
    """
    numbers = tuple(token for token in tokens if token.isdecimal())
    if numbers:
        return [numbers, numbers[-1:]]
    words = tuple(token for token in tokens if not _PICTURE_WORD.fullmatch(token))
    return [words] if words else []


def _without_edited(names: list[str], notes: list[str]) -> list[str]:
    """Names without the edited copies of photographs that are there as well: an edit may crop, turn and colour."""
    stems = {_stem(name).lower() for name in names}
    edited = [name for name in names if any(original.lower() in stems for original in _originals(_stem(name)))]
    if edited:
        notes.append(_left_out("edited copies of other images", edited))
    return [name for name in names if name not in edited]


def _originals(stem: str) -> list[str]:
    return [match.expand(original) for pattern, original in _EDITED if (match := pattern.fullmatch(stem)) is not None]


def _without_twins(names: list[str], notes: list[str]) -> list[str]:
    """Names with one file of each stem."""
    by_stem: dict[str, list[str]] = {}
    for name in names:
        by_stem.setdefault(_stem(name), []).append(name)
    left: list[str] = []
    kept: set[str] = set()
    for stem, twins in by_stem.items():
        best = min(twins, key=lambda name: (_unreadable(_suffix(name)) is not None, _rank(name)))
        kept.add(best)
        left += [f"{name} ({stem}{os.path.splitext(best)[1]} is taken)" for name in twins if name != best]  # noqa: PTH122
    if left:
        notes.append(_left_out("second files of one name", left))
    return [name for name in names if name in kept]


def _rank(name: str) -> int:
    return _PREFERENCE.get(_suffix(name), len(_PREFERENCE))


def _without_companion_folders(names: list[str], notes: list[str]) -> list[str]:
    pictures = [name for name in names if not _COMPANION_FOLDER.fullmatch(name)]
    if not pictures or len(pictures) == len(names):
        return names
    notes.append(_left_out("folders beside the images", [name for name in names if name not in pictures]))
    return pictures


def _one_scale(names: list[str], notes: list[str]) -> list[str]:
    """Names with one of ``images``, ``images_2``, …: that with the largest pictures."""
    scales = {name: 1 if name.lower() == "images" else int(match[1]) for name in names if (match := _scaled(name))}
    if len(scales) < 2:
        return names
    best = min(scales, key=lambda name: scales[name])
    left = [name for name in scales if name != best]
    notes.append(f"folders left out: {shown(left, 6)}, smaller copies of {best}, which is taken")
    return [name for name in names if name not in left]


def _scaled(name: str) -> re.Match[str] | None:
    return _SCALED.fullmatch(name) or re.fullmatch(r"(images)", name, re.IGNORECASE)


def _files(names: Sequence[str]) -> str:
    return "file" if len(names) == 1 else "files"


def _left_out(what: str, names: Iterable[str]) -> str:
    listed = list(names)
    return f"{what} left out, {len(listed)} in all: {shown(listed, 4)}"
