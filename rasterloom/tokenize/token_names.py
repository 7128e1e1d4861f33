"""Names of Chameleon's tokens, and their ids in a tokenizer.json.

Image codes have names: code 137 is ``IMGIMGBDHZ``, its decimal digits spelt with A for 0 to J for 9.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rasterloom.schema import Profile
from rasterloom.tokenize.profiles import MOST_GRID_UNITS

_DIGITS = "0123456789"
_LETTERS = "ABCDEFGHIJ"
_TO_LETTERS = str.maketrans(_DIGITS, _LETTERS)
_TO_DIGITS = str.maketrans(_LETTERS, _DIGITS)
_PREFIX, _SUFFIX = "IMGIMG", "Z"

BOS, PAD = "<s>", "<pad>"
SEP = "<reserved08706>"
BOI, EOI = "<racm3:break>", "<eoss>"
EOL = "<reserved08799>"


def code_name(code: int) -> str:
    """Return the token name of an image code."""
    if code < 0:
        raise ValueError(f"a code is not negative; {code} is")
    return f"{_PREFIX}{str(code).translate(_TO_LETTERS)}{_SUFFIX}"


def code_of_name(name: str) -> int:
    """Return the image code of a token name. ValueError where it names none."""
    letters = name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    if letters and not letters.strip(_LETTERS):
        code = int(letters.translate(_TO_DIGITS))
        if code_name(code) == name:
            return code
    raise ValueError(f"{name!r} is not the name of an image code")


def grid_name(units: int) -> str:
    """Return the token name of a count of grid units."""
    return f"<reserved{8800 + units:05d}>"


def names_of(tokenizer_json: str) -> dict[str, int]:
    """Return the token ids of a tokenizer.json by name, added ones included.

    Raises:
        ValueError: the contents are not those of such a file.
    """
    try:
        data: Any = json.loads(tokenizer_json)
        names = dict(data["model"]["vocab"])
        names.update({token["content"]: token["id"] for token in data.get("added_tokens") or ()})
        whole = all(isinstance(i, int) and i >= 0 for i in names.values())
    except (ValueError, TypeError, KeyError, AttributeError):
        whole = False
    if not whole:
        raise ValueError("not a tokenizer.json of the tokenizers library, with an id for every token")
    return names


def profile_from_tokenizer(path: str | Path, base: Profile) -> Profile:
    """Return ``base`` with the ids that a tokenizer.json has for its tokens. See ``profile_from_names``.

    Raises:
        ValueError: the file cannot be read, or as ``profile_from_names``.
    """
    try:
        names = names_of(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the tokenizer {path}: {error}") from None
    return profile_from_names(names, base, where=str(path))


def profile_from_names(names: Mapping[str, int], base: Profile, *, where: str = "the vocabulary") -> Profile:
    """Return ``base`` with the token ids of a mapping by name.

    Chameleon's image codes must be in it, in any order; those of ``movq`` lie beyond the tokenizer and
    keep their ids, as do its bos, pad and sep where they have no name there. ``where`` names the mapping
    in errors.

    Raises:
        ValueError: a token is missing or unknown, an id is used twice, or grid tokens do not follow.
    """
    if base.name == "mini":
        raise ValueError("the mini profile has no token names: its ids are fixed (docs/tokens.md)")
    named_codes = base.name == "chameleon"
    wanted = {"boi": BOI, "eoi": EOI, "eol": EOL}
    optional = {"bos": BOS, "pad": PAD, "sep": SEP}
    if named_codes:
        wanted |= optional
        optional = {}
    codes = [code_name(code) for code in range(base.codebook_size)] if named_codes else []
    grids = [grid_name(units) for units in range(1, MOST_GRID_UNITS + 1)]
    missing = [name for name in (*wanted.values(), *grids, *codes) if name not in names]
    if missing:
        shown = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        raise ValueError(f"{where} lacks {len(missing)} tokens that {base.name} needs: {shown}")
    if named_codes and (unknown := _unknown_codes(names, base.codebook_size)):
        raise ValueError(f"{where} has a token {unknown}, which names no code of {base.name}")

    ids: dict[str, Any] = {field: names[name] for field, name in (wanted | optional).items() if name in names}
    grid0 = names[grids[0]] - 1
    for units, name in enumerate(grids, 1):
        if names[name] != grid0 + units:
            raise ValueError(
                f"{where} has {name} at {names[name]}, not at {grid0 + units}: grid tokens must follow "
                "one another"
            )
    image_ids = tuple(names[name] for name in codes)
    in_order = image_ids == tuple(range(image_ids[0], image_ids[0] + len(image_ids))) if codes else True
    profile = replace(
        base,
        **ids,
        grid0=grid0,
        image0=min(image_ids, default=base.image0),
        image_ids=None if in_order else image_ids,
        vocab_size=max(base.vocab_size, 1 + max(names.values())),
    )
    _check_distinct(profile, image_ids, where)
    if not named_codes:
        _check_clear(profile, names, where)
    return profile


def _unknown_codes(names: Mapping[str, int], codebook_size: int) -> str | None:
    """The first token named like an image code that is none."""
    for name in sorted(names):
        if name.startswith(_PREFIX):
            try:
                known = code_of_name(name) < codebook_size
            except ValueError:
                known = False
            if not known:
                return name
    return None


def _check_clear(profile: Profile, names: Mapping[str, int], where: str) -> None:
    """Codes without names lie beyond the tokenizer: no token of its may have their ids."""
    codes = range(profile.image0, profile.image0 + profile.codebook_size)
    for name, id_ in names.items():
        if id_ in codes:
            raise ValueError(
                f"{where} has {name} at {id_}, where the codes of {profile.name} are, "
                f"{codes.start} to {codes.stop - 1}"
            )


def _check_distinct(profile: Profile, image_ids: tuple[int, ...], where: str) -> None:
    specials = [getattr(profile, name) for name in ("bos", "pad", "sep", "boi", "eoi", "eol")]
    grids = range(profile.grid0 + 1, profile.grid0 + MOST_GRID_UNITS + 1)
    id_, uses = Counter([*specials, *grids, *image_ids]).most_common(1)[0]
    if uses > 1:
        raise ValueError(f"{where} uses id {id_} for {uses} tokens of {profile.name}")
