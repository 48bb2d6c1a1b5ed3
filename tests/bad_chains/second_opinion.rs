//! What `openssl verify` says to the same chains, with a list of where it differs: one that differs no longer is noticed.

use std::path::Path;
use std::process::Command;

use postern::pki::Usage;
use postern::store::pem;

use crate::ALL;
use crate::cases::{Case, GOOD};
use crate::family::{Family, NOW};
use crate::forge::Draft;

#[test]
fn openssl_agrees_but_where_we_know_that_it_does_not() {
    let version = Command::new("openssl").arg("version").output();
    let version =
        version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    if !version.starts_with("OpenSSL 3.0.") {
        eprintln!("skipped: no second opinion from OpenSSL 3.0 ({version:?})");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();

    for Case { name, spoil, .. } in ALL.into_iter().flatten().filter(|case| !case.name.contains("revoked")) {
        let mut family = Family::good();
        spoil(&mut family);
        let known = stands_in(MORE_LENIENT, name);
        if believes(folder.path(), &family) != known {
            wrong.push(format!("bad: {name}, {}", if known { "agrees now" } else { "is believed" }));
        }
    }
    for (name, vary) in GOOD {
        let mut family = Family::good();
        vary(&mut family);
        let known = stands_in(STRICTER, name);
        if believes(folder.path(), &family) == known {
            wrong.push(format!("good: {name}, {}", if known { "agrees now" } else { "is refused" }));
        }
    }

    assert!(wrong.is_empty(), "{version}: {wrong:#?}");
    let names: Vec<_> =
        ALL.into_iter().flatten().map(|case| case.name).chain(GOOD.iter().map(|(name, _)| *name)).collect();
    let mut listed = MORE_LENIENT.iter().chain(STRICTER).flat_map(|(_, names)| names.iter());
    assert!(listed.all(|name| names.contains(name)), "a difference is listed of which there is no case");
}

fn stands_in(list: &[(&str, &[&str])], name: &str) -> bool {
    list.iter().any(|(_, names)| names.contains(&name))
}

fn believes(folder: &Path, family: &Family) -> bool {
    let file = |name: &str, drafts: &[Draft]| {
        let text: String = drafts.iter().map(|draft| pem::certificate_to_pem(&draft.sign())).collect();
        let path = folder.join(name);
        std::fs::File::create(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
            .unwrap();
        path
    };
    let purpose = match family.usage {
        Usage::Client => "sslclient",
        Usage::Server => "sslserver",
    };
    let mut command = Command::new("openssl");
    command.args(["verify", "-attime", &NOW.to_string(), "-purpose", purpose, "-auth_level", "2"]);
    command.arg("-CAfile").arg(file("roots", &family.roots));
    if !family.middles.is_empty() {
        command.arg("-untrusted").arg(file("middles", &family.middles));
    }
    command.arg(file("leaf", std::slice::from_ref(&family.leaf)));
    command.output().unwrap().status.success()
}

/// Bad chains that it believes, by the reason for which it does.
const MORE_LENIENT: &[(&str, &[&str])] = &[
    (
        "it knows no SPIFFE ID, and so no rule for one",
        &[
            "XV-4 no alternative name",
            "XV-4 only a DNS name",
            "XV-4 two SPIFFE IDs",
            "XV-4 the same SPIFFE ID twice",
            "XV-4 another URI first",
            "XV-5 another scheme",
            "a SPIFFE ID as a DNS name",
            "a SPIFFE ID as an e-mail address",
            "XV-6 the trust domain's own ID",
            "XV-6 the root path",
            "XV-8 an unknown trust domain",
            "15 a header in the SPIFFE ID",
            "15 a line break in the SPIFFE ID",
            "a URI that is no text",
            "XS-2 an intermediate with a workload's SPIFFE ID",
            "XS-2 an intermediate with a workload's ID in capitals",
            "XS-2 a root with a workload's SPIFFE ID",
        ],
    ),
    (
        "a leaf may be an authority, and what its key usage says of that is left to the caller",
        &[
            "XV-1 a leaf that is an authority",
            "XV-2 a leaf that may sign certificates",
            "XV-3 a leaf that may sign revocation lists",
            "XI-4 an empty subject beside names that are not critical",
            "XI-6 no key usage",
            "XI-6 a key usage without digitalSignature",
            "XI-6 a key usage that is not critical",
        ],
    ),
    (
        "names are the caller's to read",
        &[
            "10 a relative name of two attributes, on a server",
            "10 a relative name of no attributes",
            "10 a relative name of no attributes, at the end",
            "10 a name of nothing but an empty relative name",
            "10 a NUL beside another attribute",
            "10 a BMPString beside another attribute",
            "11 a NUL in the name",
            "11 a line break in the name",
            "11 a zero-width space in the name",
            "11 a right-to-left override in the name",
            "11 a BMPString",
            "11 a T61String",
            "11 a string in pieces",
            "13 a NUL in a DNS name",
            "13 an empty DNS name",
        ],
    ),
    (
        "it compares names as people would, without case and string type (RFC 5280 §7.1)",
        &["another name than the issuer's", "the issuer's name in another string type"],
    ),
    (
        "it reads BER, and what follows a certificate is not its business",
        &[
            "a byte behind the leaf",
            "a byte behind the intermediate",
            "a byte behind the root",
            "a length that is longer than it need be, on the leaf",
            "a length that is longer than it need be, on the intermediate",
            "an indefinite length",
            "a true that is not DER",
        ],
    ),
    (
        "version, serial number and repeated extensions are looked at only with `-x509_strict`, or never",
        &[
            "a leaf of version 1",
            "a leaf of version 2",
            "a root of version 1",
            "a root without a name",
            "an unknown extension twice, on the leaf",
            "an unknown extension twice, on the intermediate",
            "an unknown extension twice, on the root",
            "a negative serial number, on the leaf",
            "a serial number of zero, on the leaf",
            "a serial number of 21 bytes, on the leaf",
            "a negative serial number, on the intermediate",
            "a serial number of zero, on the intermediate",
            "a serial number of 21 bytes, on the intermediate",
        ],
    ),
    (
        "a key is measured by the work to break it, and otherwise not looked at before it is used",
        &[
            "an RSA key of 2040 bits, on the leaf",
            "an RSA key of 16384 bits, on the leaf",
            "an RSA exponent of 1",
            "an even RSA exponent",
        ],
    ),
    (
        "an authority without key usage may sign, and a root need not say that it is one",
        &[
            "XS-1 an intermediate without key usage",
            "XS-1 a root without basic constraints",
            "XS-1 a root without key usage",
            "a second root that cannot be used",
        ],
    ),
    ("it understands policies", &["policies that must be understood"]),
    ("it has other limits", &["five certificates", "more than 16 KiB"]),
];

/// Good chains that it refuses, by the reason for which it does.
const STRICTER: &[(&str, &[&str])] = &[
    (
        "it takes an authority key identifier for more than a hint",
        &["a key identifier that names another key"],
    ),
    (
        "it takes the first issuer of the right name, and does not come back when that leads nowhere",
        &[
            "another root of the same name first",
            "a root that was renewed with its key and a longer path",
            "an intermediate that may not sign beside its successor",
            "an intermediate for servers beside its successor",
            "an intermediate that is no authority beside its successor",
            "an intermediate of which nobody knows an extension beside its successor",
            "an intermediate with name constraints beside its successor",
            "an intermediate of another key beside its successor",
            "an intermediate that a stranger signed beside its successor",
            "an intermediate below an expired root, cross-signed by a good one",
            "a root's new key, signed by its old one",
        ],
    ),
];
