"""Generated text with every token coloured by its entropy."""

from __future__ import annotations

import html
from typing import Any

import matplotlib as mpl
from matplotlib.colors import to_hex

from sim.rlvr.compare_measure import END

__all__ = ["legend", "profile"]

_DARKEST = 0.85
"""of the colour map, so that black and white text stay readable"""


def profile(response: dict[str, Any], *, top: float, forking_above: float) -> str:
    """One response as HTML: the prompt, its tokens, right or wrong.

    Args:
        response: prompt, right, and [character, entropy, probability] of each token.
        top: entropy of the darkest colour, nats.
        forking_above: tokens of greater entropy are underlined.
    """
    tokens = "".join(
        _token(character, entropy, probability, top=top, forking_above=forking_above)
        for character, entropy, probability in response["tokens"]
    )
    verdict = "right" if response["right"] else "wrong"
    mark = "✓" if response["right"] else "✗"
    return (
        f'<div class="line"><span class="prompt">{html.escape(response["prompt"])}</span>{tokens}'
        f'<span class="verdict" title="{verdict}">{mark}</span></div>'
    )


def legend(top: float, forking_above: float) -> str:
    """What the colours and the underline mean."""
    steps = 5
    swatches = "".join(
        f'<span class="token" style="{_paint(top * i / (steps - 1), top)}">'
        f"{top * i / (steps - 1):.2g}</span>"
        for i in range(steps)
    )
    example = f'<span class="token fork" style="{_paint(0.7 * top, top)}">7</span>'
    return f"""<p class="legend">Entropy of the distribution that a token was drawn from, nats:
{swatches} &ensp; {example} forking token: entropy above {forking_above:.2f} nats, which a fifth of
the tokens exceeded before training &ensp; {END} end of the response &ensp; ✓ ✗ the checker's
verdict. Point at a token for its numbers. The same problems for all recipes, seed 0.</p>"""


def _token(
    character: str, entropy: float, probability: float, *, top: float, forking_above: float
) -> str:
    fork = " fork" if entropy > forking_above else ""
    title = f"entropy {entropy:.2f} nats, probability {probability:.2f}"
    return (
        f'<span class="token{fork}" style="{_paint(entropy, top)}" title="{title}">'
        f"{html.escape(character)}</span>"
    )


def _paint(entropy: float, top: float) -> str:
    share = min(entropy / top, 1.0)
    colour = to_hex(mpl.colormaps["Blues"](_DARKEST * share))
    return f"background:{colour};color:{'#fff' if share > 0.55 else '#000'}"
