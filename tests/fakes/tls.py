"""Certificates for the TLS of tests."""

from __future__ import annotations

import subprocess
from pathlib import Path


def certificates(folder: Path, *hosts: str) -> Path:
    """An authority of our own (ca.pem), and for every host a certificate with its key (<host>.pem)."""
    folder.mkdir()
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    authority = ["-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Authority of a test", "-days", "2"]
    authority += ["-addext", "keyUsage=critical,keyCertSign"]  # asked for since Python 3.13
    openssl("req", "-x509", *curve, *authority)
    for host in hosts:
        openssl("req", *curve, "-keyout", "own.key", "-out", "own.csr", "-subj", f"/CN={host}")
        (folder / "names").write_text(
            f"subjectAltName=IP:{host}\nauthorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
        )
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-days", "2"]
        openssl("x509", "-req", "-in", "own.csr", "-out", "own.pem", *signed)
        (folder / f"{host}.pem").write_text((folder / "own.key").read_text() + (folder / "own.pem").read_text())
    return folder
