"""Certificates for tests, made anew by the openssl program: no key is kept anywhere."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


class Certificates:
    """A certificate authority, a server's certificate for localhost, and clients' certificates."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("the openssl program is not installed")
        self._folder = folder
        self.ca = self._authority("ca")
        self.server = self.issue("server", "/CN=localhost", extra="subjectAltName=DNS:localhost,IP:127.0.0.1")

    def issue(
        self, name: str, subject: str, *, ca: str = "ca", extra: str = "basicConstraints=CA:FALSE"
    ) -> str:
        """Issue a certificate; return its path, beside which lies the key with the ending .key."""
        folder = self._folder
        (folder / f"{name}.ext").write_text(f"{extra}\nauthorityKeyIdentifier=keyid\n")
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                      "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject)  # fmt: skip
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key",
                      "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext",
                      "-out", f"{name}.pem")  # fmt: skip
        return str(folder / f"{name}.pem")

    def stranger(self) -> str:
        """Issue a client certificate from an authority that is not trusted."""
        self._authority("other-ca")
        return self.issue("stranger", "/CN=MG1", ca="other-ca")

    def client_context(self, certificate: str | None = None) -> ssl.SSLContext:
        """Return what a client needs to connect, with or without a certificate of its own."""
        context = ssl.create_default_context(cafile=self.ca)
        if certificate is not None:
            context.load_cert_chain(certificate, key_of(certificate))
        return context

    def _authority(self, name: str) -> str:
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                      "-days", "2", "-keyout", f"{name}.key", "-out", f"{name}.pem",
                      "-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip
        return str(self._folder / f"{name}.pem")

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._folder, check=True, capture_output=True)


def key_of(certificate: str) -> str:
    """Return the path of a certificate's key."""
    return certificate.removesuffix(".pem") + ".key"
