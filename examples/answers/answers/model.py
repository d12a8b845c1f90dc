"""Stands in for a language model: slow, one token at a time, and it knows one text."""

import asyncio
import re

from django.conf import settings

TEXT = (
    "You asked: “{question}” I do not know. I stand in for a language model: I have one text, and I write it slowly, "
    "as large models do. But I can tell you how these words reach you.\n\n"
    "The view that answers you is a coroutine. It waits for each of my words, and while it waits, it holds no thread. "
    "So a hundred of you can read a hundred answers at the same time, and the six threads of this server stay free for "
    "plain views. The figure at the top comes from one of those: this page asks for it every second, and shows how "
    "long that took.\n\n"
    "Each word is an event with a number. If the connection breaks, your browser comes back with the number of the "
    "last word that it has seen, and I go on from there. If you press stop, or leave, the server cancels the view, and "
    "I stop writing."
)


def tokens_of(question):
    """Return all tokens of an answer."""
    return re.findall(r"\S+\s*", TEXT.format(question=question))


async def generate(question, start=0):
    """Yield the tokens of an answer with their numbers, slowly, from number ``start`` on."""
    tokens = tokens_of(question)
    for number, token in enumerate(tokens[start:], start):
        await asyncio.sleep(settings.ANSWER_SECONDS / len(tokens))
        yield number, token
