"""Certificates from a certificate authority, by ACME (RFC 8555): gotten, stored, renewed.

Runs in the reactor thread, but for what a thread does that :mod:`.self_check` names; owns the folder of certificates.
May import ``common`` and ``tls``.
"""
