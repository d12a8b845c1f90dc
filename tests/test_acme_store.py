"""The folder of certificates: modes, owners, crashes."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from pathlib import Path
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric import rsa
from twisted.trial.unittest import SynchronousTestCase

from channelserver.server.acme import served as served_module
from channelserver.server.acme import store as store_module
from channelserver.server.acme.certificate import Certificate
from channelserver.server.acme.challenges import Tokens
from channelserver.server.acme.served import Served
from channelserver.server.acme.store import Pair, Store, StoreError, authority_of, default_folder, read_pair
from channelserver.server.tls.contexts import Contexts
from tests.certificates import certificate_pem, key_pem, make_key

DIRECTORY = "https://acme-v02.api.letsencrypt.org/directory"
A = ("a.test",)


def pair(number: int, *names: str) -> Pair:
    key = make_key(number)
    names = names or A
    return read_pair(key_pem(key), certificate_pem(key, hosts=names), names)


class StoreTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a folder."""
        self.folder = Path(tempfile.mkdtemp(prefix="channelserver-store-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.path = self.folder / "store"

    def store(self) -> Store:
        return Store(str(self.path), DIRECTORY)

    @property
    def base(self) -> Path:
        return self.path / "certificates" / "acme-v02.api.letsencrypt.org-directory" / "a.test"


class LayoutTests(StoreTestCase):
    """Names and modes."""

    def test_modes(self) -> None:
        """Folders have 0700, files 0600, whatever the umask is."""
        for mask in (0o000, 0o777):
            before = os.umask(mask)
            try:
                store = self.store()
                store.save(A, pair(1))
                store.keep(A, {"order": "x"})
                store.account("me@a.test")
                store.keep_account("me@a.test", "https://x")
                with store.lock(A) as alone:
                    self.assertTrue(alone)
            finally:
                os.umask(before)
            found = [self.path, *self.path.rglob("*")]
            self.assertGreater(len(found), 12)
            for path in found:
                mode = stat.S_IMODE(path.stat().st_mode)
                self.assertEqual(oct(mode), oct(0o700 if path.is_dir() else 0o600), path)
            shutil.rmtree(self.path)

    def test_layout(self) -> None:
        """The layout is Caddy's."""
        store = self.store()
        store.save(A, pair(1))
        store.keep(A, {"order": "x"})
        self.assertEqual(sorted(path.name for path in self.base.iterdir()), ["a.test.crt", "a.test.json", "a.test.key"])
        store.account("me@example.org")
        users = self.path / "acme" / "acme-v02.api.letsencrypt.org-directory" / "users"
        self.assertTrue((users / "me@example.org" / "me.key").exists())
        self.assertEqual(authority_of("https://127.0.0.1:14000/dir"), "127.0.0.1-14000-dir")

    def test_store_of_caddy(self) -> None:
        """A certificate that Caddy has stored is served, and what it keeps about it stays."""
        store = self.store()
        self.base.mkdir(0o700, parents=True)
        key = make_key(3)
        for name, data in {
            "a.test.key": key_pem(key),
            "a.test.crt": certificate_pem(key, hosts=A),
            "a.test.json": b'{"sans": ["a.test"], "issuer_data": {"url": "https://x"}}',
        }.items():
            (self.base / name).write_bytes(data)
            (self.base / name).chmod(0o600)
        self.assertIsNotNone(store.load(A))
        store.keep(A, {"failures": 1})
        content = json.loads((self.base / "a.test.json").read_text())
        self.assertEqual(content["issuer_data"], {"url": "https://x"})

    def test_files_of_certbot(self) -> None:
        """Its certificate, with an RSA key, is served when it is copied as docs/https.rst says (``install -D``)."""
        store = self.store()
        self.base.mkdir(0o755, parents=True)
        key = rsa.generate_private_key(65537, 2048)
        for name, data in {"a.test.crt": certificate_pem(key, hosts=A), "a.test.key": key_pem(key)}.items():
            (self.base / name).write_bytes(data)
            (self.base / name).chmod(0o600)
        self.assertIsNotNone(store.load(A))

    def test_long_names(self) -> None:
        """Many names in one certificate make a name of a file that is not too long, and different for others."""
        store = self.store()
        many = tuple(f"{number}.example-with-a-long-name.test" for number in range(90))
        store.save(many, pair(1, *many))
        store.save(many[:-1], pair(2, *many[:-1]))
        found = store.load(many)
        assert found is not None
        self.assertEqual(found.serial, pair(1, *many).serial.partition(".")[0] + "." + found.serial.partition(".")[2])
        self.assertIsNotNone(store.load(many[:-1]))

    def test_default(self) -> None:
        """The folder lies with the state of the service, never with the project."""
        self.assertEqual(default_folder({"STATE_DIRECTORY": "/var/lib/site:/x"}), "/var/lib/site/certificates")
        self.assertEqual(default_folder({"PACKED_DATA": "/x", "STATE_DIRECTORY": "/y"}), "/x/certificates")
        self.assertEqual(default_folder({"XDG_STATE_HOME": "/h"}), "/h/channelserver/certificates")
        self.assertTrue(default_folder({}).endswith("/.local/state/channelserver/certificates"))


class RefusalTests(StoreTestCase):
    """What must not be used is refused with a sentence."""

    def test_key_for_others(self) -> None:
        """A private key that others can read is refused."""
        store = self.store()
        store.save(A, pair(1))
        (self.base / "a.test.key").chmod(0o644)
        error = self.assertRaises(StoreError, store.load, A)
        self.assertIn("0644", str(error))
        self.assertIn("chmod 600", str(error))

    def test_folder_for_others(self) -> None:
        """A folder that others can write is refused."""
        self.path.mkdir()
        self.path.chmod(0o777)
        self.assertIn("chmod 700", str(self.assertRaises(StoreError, self.store)))

    def test_foreign_owner(self) -> None:
        """A file of another user is refused."""
        store = self.store()
        store.save(A, pair(1))
        with patch.object(store_module.os, "geteuid", return_value=os.geteuid() + 1):
            self.assertIn("belongs to user", str(self.assertRaises(StoreError, store.load, A)))
            self.path.mkdir(exist_ok=True)
            self.assertIn("chown", str(self.assertRaises(StoreError, self.store)))

    def test_no_folder(self) -> None:
        """A folder that cannot be made is refused."""
        self.path.write_text("a file")
        self.assertIn("--acme-store", str(self.assertRaises(StoreError, self.store)))


class CrashTests(StoreTestCase):
    """A crash at any moment leaves a pair that fits."""

    def test_every_moment(self) -> None:
        """Cut off before each call that changes files, the old or the new pair is there, and never a half one."""
        calls = ("rename", "fsync", "unlink")
        for moment in range(20):
            shutil.rmtree(self.path, ignore_errors=True)
            store = self.store()
            store.save(A, pair(1))
            left = [moment]

            def cut(real, *arguments, left=left):  # type: ignore[no-untyped-def]
                if left[0] == 0:
                    raise KeyboardInterrupt
                left[0] -= 1
                return real(*arguments)

            reals = {name: getattr(os, name) for name in calls}
            patches = [
                patch.object(store_module.os, name, lambda *a, real=real: cut(real, *a)) for name, real in reals.items()
            ]
            for each in patches:
                each.start()
            try:
                store.save(A, pair(2))
                ended = True
            except KeyboardInterrupt:
                ended = False
            finally:
                for each in patches:
                    each.stop()
            found = self.store().load(A)
            assert found is not None
            self.assertIn(found.key, (pair(1).key, pair(2).key))
            key, chain = (self.base / "a.test.key").read_bytes(), (self.base / "a.test.crt").read_bytes()
            read_pair(key, chain, A)  # other readers find a pair now, too
            if ended:
                self.assertGreater(moment, 5)
                self.assertEqual(found.key, pair(2).key)
                return
        self.fail("it never came to its end")

    def test_left_over(self) -> None:
        """What a killed process has left aside is removed with the next write."""
        store = self.store()
        store.save(A, pair(1))
        left = self.base / ".a.test.key.next.999999999"
        left.write_bytes(b"secret")
        mine = self.base / f".a.test.key.next.{os.getpid()}"
        store.save(A, pair(2))
        self.assertFalse(left.exists() or mine.exists())

    def test_lock(self) -> None:
        """Of two processes one orders; a lock ends with its holder."""
        one, other = self.store(), self.store()
        with one.lock(A) as first, other.lock(A) as second, other.lock(("b.test",)) as third:
            self.assertEqual((first, second, third), (True, False, True))
        with other.lock(A) as again:
            self.assertTrue(again)

    def test_crash_then_a_full_disk(self) -> None:
        """A pair that a crash has left in two places is served, though it cannot be put right."""
        store = self.store()
        store.save(A, pair(1))
        (self.base / "a.test.key").rename(self.base / "a.test.key.next")
        (self.base / "a.test.crt").rename(self.base / "a.test.crt.next")
        with patch.object(store_module.os, "fsync", side_effect=OSError(28, "No space left on device")):
            found = self.store().load(A)
        self.assertEqual(found and found.key, pair(1).key)

    def test_what_openssl_refuses(self) -> None:
        """A stored certificate with a weak key counts as none, and the log says so: the server starts."""
        store = self.store()
        key = rsa.generate_private_key(65537, 1024)
        weak = read_pair(key_pem(key), certificate_pem(key, hosts=A), A)
        store.save(A, weak)
        lines: list[str] = []
        with patch.object(served_module._log, "error", lambda text, **event: lines.append(text.format(**event))):
            self.assertIsNone(Served(Contexts((b"http/1.1",)), Tokens(), store, [A]).load(A))
        self.assertRegex(lines[0], r"the stored certificate for a\.test cannot be used: .*key too small")

    def test_long_chain(self) -> None:
        """Each handshake would send it."""
        with self.assertRaisesRegex(ValueError, "chain has 11"):
            read_pair(pair(1).key, pair(1).chain * 11, A)

    def test_odd_files(self) -> None:
        """A pipe, a folder, deep JSON and numbers that are none in place of files: no hang, no traceback."""
        store = self.store()
        store.save(A, pair(1))
        (self.base / "a.test.json").write_text("[" * 100_000)
        self.assertEqual(store.record(A), {})
        record = '{"failures": 1e999, "next": NaN, "obtained": -1, "ari": {"serial": "x", "start": 1e999}}'
        (self.base / "a.test.json").write_text(f'{{"channelserver": {record}}}')
        certificate = Certificate(A, store, lambda: 1e9)
        certificate.adopt(pair(1))
        self.assertEqual((certificate.failures, certificate.window), (0, None))
        (self.base / "a.test.key").unlink()
        os.mkfifo(self.base / "a.test.key", 0o600)
        self.assertIsNone(store.load(A))
        (self.base / "a.test.key").unlink()
        (self.base / "a.test.key").mkdir(0o700)
        self.assertIn("it is a folder", str(self.assertRaises(StoreError, store.load, A)))
        (self.path / "locks").mkdir(0o700)
        (self.path / "locks" / "a.test.lock").symlink_to("elsewhere")
        with self.assertRaisesRegex(StoreError, "a.test.lock.*symbolic links"), store.lock(A):
            pass

    def test_clock_is_set_back(self) -> None:
        """What was noted while the clock was years ahead does not count: the certificate is renewed in time."""
        now = [1e9 + 15 * 365 * 86_400.0]
        certificate = Certificate(A, self.store(), lambda: now[0])
        certificate.failed("x", 3600.0)
        certificate.postpone(30.0)
        self.assertEqual(certificate.due()[0], now[0] + 3600)
        certificate.asked(None, 3600.0)
        now[0] = 1e9
        self.assertEqual((certificate.due()[0], certificate.ask_again), (0.0, 0.0))
        now[0] += 15 * 365 * 86_400.0
        ours = Pair(b"", b"", "x", 1e9, 1e9 + 90 * 86_400)
        certificate.adopt(ours, new=True)
        self.assertGreater(certificate.due()[0], now[0])
        now[0] = 1e9 + 86_400
        self.assertLess(abs(certificate.due()[0] - 1e9 - 60 * 86_400), 2 * 86_400)
        now[0] = 1e9
        certificate.failed("x", 3600.0)
        self.assertEqual(Certificate(A, self.store(), lambda: now[0] - 60).due()[0], now[0] + 3600)  # clocks differ

    def test_half_files(self) -> None:
        """Files that are cut short count as none, and a record as empty."""
        store = self.store()
        store.save(A, pair(1))
        store.keep(A, {"order": "x"})
        (self.base / "a.test.crt").write_bytes(pair(1).chain[:100])
        (self.base / "a.test.json").write_bytes(b'{"sans": [')
        self.assertIsNone(store.load(A))
        self.assertEqual(store.record(A), {})
        for text in ("[]", "7", '{"channelserver": 3}'):
            (self.base / "a.test.json").write_text(text)
            self.assertEqual(store.record(A), {})
