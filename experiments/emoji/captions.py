"""What is said of an emoji: its name, some of its tags, its skin tone, its style, in several phrasings.

The grammar, with N the name (an article before it where it takes one), T a list of one to three tags and S the style's name:

    said    = N ", " S " style" | N " in " S " style" | a S " style emoji of " N | S " " name | T ", " S " style"
    unsaid  = N | "an emoji of " N | N ": " T | T
    N       = [article] name [", " skin tone]

The first caption says name, tone and style; a quarter of them at most leave the style unsaid, as people do, and are
then the same for every style of a subject. A subject without tags has captions of its name alone. The captions of a
picture are a function of its words, its tone, its style and its code points.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np

from diffusion_jax.typing import UserError
from experiments.emoji.words import Word

__all__ = ["captions", "full", "named", "with_article"]

SAID = ("{n}, {s} style", "{n} in {s} style", "{a} style emoji of {n}", "{s} {b}", "{t}, {s} style")
UNSAID = ("{n}", "an emoji of {n}", "{n}: {t}", "{t}")
MOST = 12
_BEFORE = re.compile(r"^(.*?)( (with|of|on|in|at|and|holding|from|to|without|behind)\b.*|,.*)?$")


def with_article(name: str) -> str:
    """ "a cat", "an eagle"; a name that is in the plural, is no common noun or ends as a participle is as it is."""
    head = (_BEFORE.match(name) or [name, name])[1].split(" ")
    last = head[-1]
    plural = any(word.endswith("s") and not word.endswith(("ss", "us", "is")) for word in (head[0], last))
    if (
        plural
        or not re.fullmatch(r"[a-z][a-z-]*", head[0])
        or last.endswith("ing")
        or name.startswith(("flag", "keycap"))
    ):
        return name
    return _article(name)


def _article(text: str) -> str:
    return f"{'an' if text[0] in 'aeiou' and not text.startswith(('uni', 'one')) else 'a'} {text}"


def named(word: Word, tone: str = "") -> str:
    """What names a picture and not its style: "a waving hand, dark skin tone"."""
    return with_article(word.name) + (f", {tone}" if tone else "")


def full(word: Word, tone: str, style: str) -> str:
    """The caption that says everything but the tags: "a waving hand, dark skin tone, noto style"."""
    return SAID[0].format(n=named(word, tone), s=style)


def captions(word: Word, tone: str, style: str, code: str, count: int = 5) -> tuple[str, ...]:
    """`count` different captions of a picture, fewer where its words give no more; the first is `full`.

    Raises UserError for a count that is not in 1 .. 12.
    """
    if not 1 <= count <= MOST:
        raise UserError(f"count {count} of captions is not in 1 .. {MOST}; nearest: {min(max(count, 1), MOST)}")
    quarter = count // 4
    unsaid = _some(UNSAID, quarter, word, tone, "", code)
    said = _some(SAID, count - quarter, word, tone, style, code)
    first = full(word, tone, style)
    return (first, *[text for text in said if text != first][: count - quarter - 1], *unsaid)


def _some(forms: tuple[str, ...], count: int, word: Word, tone: str, style: str, code: str) -> list[str]:
    """At most `count` different captions of these forms, by chance, the same for the same arguments."""
    forms = tuple(form for form in forms if word.tags or "{t}" not in form)
    bare = word.name + (f", {tone}" if tone else "")
    found: dict[str, None] = {}
    for turn in range(8 * count):
        seed = hashlib.blake2b(f"{code} {tone} {style} {turn}".encode(), digest_size=8).digest()
        rng = np.random.default_rng(int.from_bytes(seed))
        form = forms[int(rng.integers(len(forms)))]
        tags = ", ".join(rng.permutation(np.array(word.tags))[: int(rng.integers(1, 4))]) if word.tags else ""
        found[form.format(n=named(word, tone), b=bare, s=style, a=_article(style or " "), t=tags)] = None
        if len(found) == count:
            break
    return list(found)
