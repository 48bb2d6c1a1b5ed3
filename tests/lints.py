"""Lints chains and their revocation lists with pkilint. Each argument is a folder with root.pem, issuing.pem and leaf.pem, and
the lists root-crl.pem, issuing-crl.pem and empty-crl.pem.

Prints one line for each finding that counts. Exit code: 0 none, 1 some.
"""

import contextlib
import io
import json
import pathlib
import sys

from pkilint.bin import lint_crl, lint_pkix_cert, lint_pkix_signer_signee_cert_chain


def findings(linter, *files):
    kind = ["--type", "CRL", "--profile", "PKIX"] if linter is lint_crl else []
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        linter.main(["lint", *kind, "--severity", "WARNING", "--format", "JSON", *map(str, files)])
    for result in json.loads(printed.getvalue())["results"]:
        for finding in result["finding_descriptions"]:
            yield finding["severity"], finding["code"], finding.get("message") or "", result["node_path"]


def counts(code, message):
    """SPIFFE IDs are URIs that the linter knows nothing of, and `localhost` is a name without a dot."""
    if "invalid_uri_syntax" in code:
        return "spiffe://" not in message
    return "localhost" not in message


def main(folders):
    checked, found = 0, 0
    for folder in map(pathlib.Path, folders):
        root, issuing, leaf = (folder / f"{name}.pem" for name in ("root", "issuing", "leaf"))
        tasks = [(lint_pkix_cert, file) for file in (root, issuing, leaf)]
        pairs = [(root, root), (root, issuing), (issuing, leaf)]
        tasks += [(lint_pkix_signer_signee_cert_chain, *pair) for pair in pairs]
        crls = ("root-crl.pem", "issuing-crl.pem", "empty-crl.pem")
        tasks += [(lint_crl, folder / name) for name in crls]
        for linter, *files in tasks:
            checked += 1
            for severity, code, message, path in findings(linter, *files):
                if counts(code, message):
                    found += 1
                    print(f"{folder.name}/{files[-1].name}: {severity} {code} at {path}: {message}")
    print(f"pkilint: {checked} checks, {found} findings")
    return 1 if found or not checked else 0


sys.exit(main(sys.argv[1:]))
