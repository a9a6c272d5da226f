"""Which known word somebody meant. Imports nothing of ours, because messages of errors are made with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["did_you_mean", "or_perhaps"]


def did_you_mean(word: str, known: Iterable[str] | Mapping[str, str]) -> str:
    """Asks for the known words that look like this one, in the form in which to type them; else it is empty."""
    import difflib  # loaded when somebody has mistyped something

    forms = known if isinstance(known, Mapping) else {name: name for name in known}
    close = [repr(forms[match]) for match in difflib.get_close_matches(word, forms)]
    return f"Did you mean {' or '.join(close)}?" if close else ""


def or_perhaps(word: str, known: Iterable[str]) -> str:
    """The same as the end of a sentence: `; did you mean 'threads'?`, or a full stop."""
    question = did_you_mean(word, known)
    return f"; {question[0].lower()}{question[1:]}" if question else "."
