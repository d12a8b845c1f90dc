"""The files of a measured site: a database of one table, a large file; static files, and what servers need for them.

Plain Python: the benchmark program writes them before the server starts.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from benchmarks.apps.sizes import FILE, LARGE, SMALL

#: The static files by their names, all of one letter.
STATIC = {"small.css": b"x" * SMALL, "large.bin": b"x" * LARGE}
#: Their folder, and the configuration of nginx.
STATIC_FOLDER, NGINX = "static", "nginx.conf"

DATABASE, LARGE_FILE = "db.sqlite3", "large"


def make_files(folder: Path) -> None:
    """Write them into a folder."""
    with closing(sqlite3.connect(folder / DATABASE)) as database, database:
        database.execute("CREATE TABLE django_content_type (id INTEGER PRIMARY KEY, app_label TEXT, model TEXT)")
        database.execute("INSERT INTO django_content_type VALUES (1, 'auth', 'user')")
    with (folder / LARGE_FILE).open("wb") as stream:
        stream.truncate(FILE)


def make_static(folder: Path, port: int, certificate: tuple[str, str] | None) -> None:
    """Write static files into a folder, and what nginx needs to serve them.

    :param port: of nginx.
    :param certificate: the paths of a certificate and its key, if it speaks TLS and HTTP/2.
    """
    (folder / STATIC_FOLDER).mkdir()
    for name, content in STATIC.items():
        (folder / STATIC_FOLDER / name).write_bytes(content)
    (folder / NGINX).write_text(_nginx(port, certificate))


def _nginx(port: int, certificate: tuple[str, str] | None) -> str:
    """Return a configuration as its documentation advises for static files, with one process."""
    places = " ".join(f"{name}_temp_path temp;" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    secure = f"ssl_certificate {certificate[0]}; ssl_certificate_key {certificate[1]};" if certificate else ""
    return f"""
{"user root;" if os.geteuid() == 0 else ""}
daemon off; worker_processes 1; pid nginx.pid;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; {places}
  types {{ text/css css; }}
  server {{ listen 127.0.0.1:{port}{" ssl http2" if certificate else ""}; {secure} root .; }}
}}
"""
