"""Gets tokens with the PyPI package Authlib, for tests/oauth.rs.

    get METHOD METADATA-URL API-URL BUNDLE CLIENT SECRET [CERTIFICATE KEY]

METHOD is client_secret_basic, client_secret_post, private_key_jwt (SECRET is then the file of a private key) or
tls_client_auth. The token is got from where the metadata says, used for one GET of API-URL, asked about, revoked and used
again. Prints one JSON object that says what came of it.
"""

import json
import pathlib
import sys

import requests
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT

method, metadata_url, api_url, bundle, client, secret = sys.argv[1:7]
certificate = tuple(sys.argv[7:9]) or None


def prepared(session):
    session.verify = bundle
    session.cert = certificate
    # What stands in the environment is for others.
    session.trust_env = False
    return session


metadata = prepared(requests.Session()).get(metadata_url, timeout=10).json()
# The issuer's name is that of any listener; here it is the one that was asked.
origin = metadata_url.split("/.well-known")[0]
endpoint = {
    name: origin + metadata[name].removeprefix(metadata["issuer"])
    for name in ("token_endpoint", "introspection_endpoint", "revocation_endpoint", "jwks_uri")
}

if method == "private_key_jwt":
    session = OAuth2Session(
        client,
        pathlib.Path(secret).read_text(),
        token_endpoint_auth_method="private_key_jwt",
    )
    session.register_client_auth_method(PrivateKeyJWT(metadata["token_endpoint"], alg="ES256"))
elif method == "tls_client_auth":
    # Authlib calls a client that only names itself in the body "none".
    session = OAuth2Session(client, token_endpoint_auth_method="none")
else:
    session = OAuth2Session(client, secret, token_endpoint_auth_method=method)
prepared(session)

token = session.fetch_token(endpoint["token_endpoint"], grant_type="client_credentials", timeout=10)
first = session.get(api_url, timeout=10).status_code
told = session.introspect_token(
    endpoint["introspection_endpoint"], token=token["access_token"], token_type_hint="access_token"
).json()
revoked = session.revoke_token(endpoint["revocation_endpoint"], token=token["access_token"]).status_code
second = session.get(api_url, timeout=10).status_code
print(json.dumps({"token": token, "first": first, "told": told, "revoked": revoked, "second": second}))
