"""Writes tests/data/golden_bpe.json: hard captions and the ids that open_clip gives them on a small vocabulary.

    /path/to/the/parity/python tests/parity/make_tokenizer_golden.py

The vocabulary is learned here, by byte-pair encoding (arXiv 1508.07909) of the captions below, because OpenAI's is
not part of this repository. `hard_strings` is also what tests/parity/test_clip_tokenizers.py reads.
"""

import collections
import gzip
import html
import itertools
import json
import random
import tempfile
from importlib.metadata import version
from pathlib import Path

OUT = Path(__file__).parent.parent / "data" / "golden_bpe.json"
MERGES = 700

FIXED = (
    "",
    " \t\n ",
    "a photo of a cat",
    "A Photo Of  A\tCAT,\nsitting.",
    "it's they're I've I'm we'll she'd can't 'S 'RE 'ſ ''s 's's ‘s",
    "don’t “quote” ‚low‘ «angle» ′prime″ ´acute`",
    "3 cats, 12 dogs & 1,024.50 birds; 7th 2nd ½ ² Ⅷ ① ٣ ३ 零 〇",
    "salt & pepper &c. R&D AT&T &",
    "&amp; &amp;amp; &amp;amp;amp; &amp;amp;amp;amp; &lt;b&gt; &amp;lt;b&amp;gt; <b>&amp;</b>",
    "&eacute; &EACUTE; &notit; &not &#233; &#xe9; &#XE9 &#0; &#x80; &#xD800; &#1114112; &#x1F600; &copy2024 &hellip",
    "P&amp;eacute;rez &nbsp; caf&eacute &#8217;tis &ampamp; &;&#;&#x; &zwj;",
    "sÃ³ voilÃ\xa0 voilÃ le travail âœ” No problems â€œquotedâ€\x9d doesnâ€™t Ã©tÃ© schÃ¶n",
    "Ð¿Ñ€Ð¸Ð²ÐµÑ‚ æ—¥æœ¬èªž ÃƒÂ© Ã‚Â© Â£5 10 Â°C l’humanitÃ©",
    "ﬁne ﬂuﬃest oﬃce ﬅop ĳ Ǆ ｆｕｌｌ　ｗｉｄｔｈ ﾊﾝｶｸ ￦",
    "İstanbul IĞDIR ΑΣ ΟΔΥΣΣΕΥΣ Σ ß ẞ ŉ ǰ ΐ K Å ſtop ﬆ",
    "e\u0301 a\u030a o\u0308\u0304 n\u0303 \u0301 q\u0323\u0307 \u1100\u1161\u11a8 각 ᄀ",
    "日本語のテキスト 漢字 中文字符，标点。「引用」 한국어 문장 ไทยไม่มีช่องว่าง",
    "العربية نص \u202bעברית\u202c שָׁלוֹם हिन्दी தமிழ் বাংলা ქართული አማርኛ ᠮᠣᠩᠭᠣᠯ",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇯🇵🇫🇷 ❤️ ☺︎ 🧑🏿‍🚀 🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f 1️⃣",
    "a\u00a0b\u2003c\u2009d\u200be\u200cf\u200dg\u2060h\ufeffi\u00adj\u3000k\u180el\u1680m\u2028n\u2029o\u0085p",
    "\x00a\x01b\x07c\x08d\x0be\x0cf\x0eg\x1bh\x1ci\x1dj\x1ek\x1fl\x7fm\x80n\x91o\x9fp",
    "\x1b[31mred\x1b[0m \x1b[1;32mgreen \x1b] bell\x07 \x1b[",
    "a\x1cb a\x1fb a\x0bb a\x0cb a\rb a\r\nb",
    "\ud83d\ude00 \ud83d lone \ude00 lone \ude00\ud83d \udfff\ud800",
    "\ufffd \ufffe \uffff \U0010ffff \U0001fffe \ufff9\ufffa\ufffb\ufffc \u206a",
    "<start_of_text>a cat<end_of_text> <START_OF_TEXT> <End_Of_Text>x",
    "<|startoftext|>a cat<|endoftext|> <start_of_text <end_of_text>>> &lt;end_of_text&gt; <<end_of_text>",
    "!<start_of_text> .<end_of_text> x<end_of_text>y <start_ of_text>",
    "</w> a</w> Ġ Ċ Ā ¡ ÿ ğ Ń a</w b/w>",
    "http://example.org/a_b?c=d&e=f&amp;g#h user@example.org C:\\dir\\file.txt #tag @name $5 50% 1+1=2 ~^|`",
    "snake_case kebab-case CamelCase ... !!! ?!?! :-) ¯\\_(ツ)_/¯ (╯°□°)╯︵ ┻━┻ ——– …",
    "𝒥ohn 𝕳𝖊𝖑𝖑𝖔 ᵗⁱⁿʸ Ⓒⓘⓡⓒⓛⓔ 🅰🅱 ℌ ℵ ∑∫√ ⠓⠊ 𐎀𐎁 𓀀𓁐 𠜎𠜱",
)
"""Captions that each try one thing: contractions, entities, mojibake, widths, case, marks, scripts, controls."""

_WORDS = (
    "a the of in on with photo picture drawing cat dog bird tree house street red green blue small large old new "
    "running sitting standing under over near two three man woman child table café naïve Zürich déjà garçon niño "
    "Ελλάδα привет мир 日本 東京 中文 한국 "
    "العربية שלום हिन्दी ไทย 😀 🐈 ❤️ 2024 10 7 1,000 it's don't we're can’t “yes” R&D &amp; &lt;3 -- ... ! ?"
)
WORDS = _WORDS.split()

# Blocks whose characters were assigned long ago, so that every Python and every regex agree on what they are.
BLOCKS = (
    *((0x20, 0x7F), (0x00, 0x20), (0x7F, 0x100), (0x100, 0x250), (0x300, 0x370), (0x386, 0x3CF), (0x400, 0x460)),
    *((0x5D0, 0x5EB), (0x621, 0x64B), (0x905, 0x93A), (0xE01, 0xE3B), (0x1100, 0x1160), (0x2000, 0x2070)),
    *((0x20A0, 0x20AD), (0x2150, 0x2183), (0x2190, 0x2200), (0x2500, 0x2600), (0x3040, 0x3097), (0x3099, 0x3100)),
    *((0x4E00, 0x9FA6), (0xAC00, 0xD7A4), (0xD800, 0xE000), (0xFB00, 0xFB07), (0xFE00, 0xFE10), (0xFF01, 0xFFBF)),
    *((0x1F300, 0x1F321), (0x1F600, 0x1F641), (0x20000, 0x20100), (0xE0061, 0xE007B)),
)
JOINS = (" ", "", "\n", "\u200d", "&", "'", "  ", "\xa0", "\ufe0f", ";", "<")


def hard_strings(count: int, seed: int = 0) -> list[str]:
    """`count` distinct captions: the fixed ones, then random mixtures, mistreated as captions of the web are."""
    draw = random.Random(seed)
    found = dict.fromkeys(FIXED)
    kinds = (_words, _words, _mixture, _unicode, _mojibake, _escaped)
    while len(found) < count:
        found[draw.choice(kinds)(draw)] = None
    return list(found)[:count]


def _words(draw: random.Random) -> str:
    words = [draw.choice(WORDS) for _ in range(draw.randint(1, 24))]
    cases = (str, str, str.upper, str.capitalize, str.title)
    return " ".join(draw.choice(cases)(word) + draw.choice(("", "", "", ",", ".", "'s", "!!")) for word in words)


def _unicode(draw: random.Random) -> str:
    blocks = draw.sample(BLOCKS, draw.randint(1, 3))
    return "".join(chr(draw.randrange(*draw.choice(blocks))) for _ in range(draw.randint(1, 40)))


def _mixture(draw: random.Random) -> str:
    parts = [draw.choice((draw.choice(FIXED)[: draw.randint(1, 30)], draw.choice(WORDS), _unicode(draw)[:6]))]
    for _ in range(draw.randint(1, 8)):
        parts += [draw.choice(JOINS), draw.choice((draw.choice(WORDS), draw.choice(FIXED)[-draw.randint(1, 20) :]))]
    return "".join(parts)


def _mojibake(draw: random.Random) -> str:
    text = draw.choice((_words, _mixture))(draw).encode("utf-8", "replace")
    for _ in range(draw.randint(1, 2)):
        text = text.decode(draw.choice(("latin-1", "cp1252", "cp1251", "mac_roman", "cp437")), "replace").encode()
    return text.decode()


def _escaped(draw: random.Random) -> str:
    text = draw.choice((_words, _mixture))(draw)
    for _ in range(draw.randint(1, 4)):
        text = html.escape(text) if draw.random() < 0.7 else text.encode("ascii", "xmlcharrefreplace").decode()
    return text


def train(captions: list[str], merges: int) -> list[tuple[str, str]]:
    """The first merges of byte-pair encoding on those captions, in the symbols of OpenAI's file."""
    from diffusion_jax.data.text.bpe import BYTE_SYMBOLS, PATTERN, clean

    found: collections.Counter[str] = collections.Counter()
    for caption in captions:
        found.update(PATTERN.findall(clean(caption)))
    words = {}
    for word, times in found.items():
        symbols = [BYTE_SYMBOLS[byte] for byte in word.encode()]
        words[(*symbols[:-1], symbols[-1] + "</w>")] = times
    learned = []
    while len(learned) < merges:
        pairs: collections.Counter[tuple[str, str]] = collections.Counter()
        for symbols, times in words.items():
            for pair in itertools.pairwise(symbols):
                pairs[pair] += times
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        learned.append(best)
        words = {_join(symbols, best): times for symbols, times in words.items()}
    return learned


def _join(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    joined, i = [], 0
    while i < len(symbols):
        two = symbols[i : i + 2] == pair
        joined.append("".join(pair) if two else symbols[i])
        i += 2 if two else 1
    return tuple(joined)


def write_gzip(path: Path, merges: list[tuple[str, str]]) -> None:
    """A file in the format of OpenAI's; no line break at its end, which open_clip would read as one more symbol."""
    lines = [f'"{path.name}#version: 0.2', *map(" ".join, merges)]
    path.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


def main() -> None:
    """Learns the vocabulary, asks open_clip and writes the file."""
    import conftest  # noqa: F401  (what open_clip's import needs beside a torch without CUDA)
    from open_clip.tokenizer import SimpleTokenizer

    merges = train([caption for caption in hard_strings(1500, seed=1) if len(caption) < 400], MERGES)
    captions = [*hard_strings(500), "cat" * 400, "the cat sat on the mat. " * 40, "ab " * 75 + "c", "a" * 10_000]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.txt.gz"
        write_gzip(path, merges)
        peer = SimpleTokenizer(str(path))
        ids = [[peer.sot_token_id, *peer.encode(caption), peer.eot_token_id] for caption in captions]
        rows = peer(captions).tolist()
    for full, row in zip(ids, rows, strict=True):
        kept = full[:77]
        kept[-1] = peer.eot_token_id
        assert row[: len(kept)] == kept and not any(row[len(kept) :])
    peers = {name: version(name) for name in ("open_clip_torch", "ftfy", "regex")}
    cases = [
        [caption, row[: min(len(full), 77)], len(full)] for caption, row, full in zip(captions, rows, ids, strict=True)
    ]
    head = json.dumps({"peers": peers, "merges": [" ".join(pair) for pair in merges]})[1:-1]
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    OUT.write_text(f'{{{head}, "cases": [\n{lines}\n]}}\n')
    print(f"{len(cases)} captions, {len(merges)} merges, {OUT.stat().st_size / 1000:.0f} kB: {OUT}")


if __name__ == "__main__":
    main()
