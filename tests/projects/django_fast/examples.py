"""Run here, by Django alone, and in the server."""

from django.core.signing import Signer
from django.http import HttpRequest, HttpResponse
from django.http.response import ResponseHeaders

NAMES = ["Plain", "", "X-Y", "Ümlaut", "two\nlines", "tab\tbed", b"Bytes", b"\xff", 5, None, ["list"]]
VALUES = ["text", "", "ümlaut", "日本", "two\r\nlines", "tab\tbed", "\x7f", b"bytes", b"\xff\n", 5, None, []]


def result(function, *arguments):
    try:
        return repr(function(*arguments))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def fields():
    for name in NAMES:
        for value in VALUES:
            headers = ResponseHeaders({"first": "1"})
            yield result(headers.__setitem__, name, value)
            yield repr(headers._store)


def looked_up():
    headers = ResponseHeaders({"Content-Type": "text/plain", "EMPTY": ""})
    for name in ["content-type", "CONTENT-TYPE", "empty", "missing", *NAMES]:
        yield result(headers.__contains__, name)
        yield result(headers.get, name)
        yield result(headers.get, name, "other")
        yield result(lambda key: headers.get(key=key, default="other"), name)
        yield result(headers.__getitem__, name)
        yield result(headers.setdefault, name, "new")
        yield repr(headers._store)


def hosts():
    for host in ["localhost", "LOCALHOST:80", "[::1]:80", "a b", "", "x_y", "other.test", "localhost:x"]:
        request = HttpRequest()
        request.META["HTTP_HOST"] = host
        yield result(request.get_host)


def charsets():
    for kind in ["text/plain", "text/plain; charset=latin-1", 'a/b; Charset="UTF-16"', "a/b; charset="]:
        yield result(HttpResponse("é", content_type=kind).getvalue)


def separators():
    for separator in [":", "-", "a", "", "::"]:
        yield result(lambda sep: Signer(sep=sep, key="k").sign("text"), separator)


def examples():
    return [list(part()) for part in (fields, looked_up, hosts, charsets, separators)]
