//! The house stands: a module uses only those listed above it, and a pure room touches no clock, disk, net or runtime.

use std::path::Path;
use std::{fs, io};

/// The rooms that take values and return values.
const PURE: [&str; 7] = ["identity", "registry", "limit", "pki", "credential", "authz", "oauth"];
/// The rooms that face the outside; what they share lies below them.
const FRONT_DOORS: [&str; 3] = ["proxy", "workload", "admin"];

/// Everything that is wrong with one file, given the modules from the ground up.
fn problems(floors: &[String], path: &str, text: &str) -> Vec<String> {
    let code = code(text);
    let inside = path.strip_prefix("src/").unwrap_or(path);
    let room = inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs");
    let floor = |name: &str| floors.iter().position(|floor| floor == name);
    let mut found = Vec::new();

    if !text.starts_with("//! ") {
        found.push(format!("{path} does not open with `//! `"));
    }
    if code.contains("super::super::") {
        found.push(format!("{path} climbs with super::super::, which hides where it goes"));
    }
    if matches!(inside.rsplit('/').next(), Some("lib.rs" | "mod.rs")) {
        found.extend(definitions(&code).map(|item| format!("{path} defines something: `{item}`")));
    }
    if let Some(own) = floor(room) {
        let stands_at_the_root = !inside.contains('/') || inside.ends_with("/mod.rs");
        let by_super = if stands_at_the_root { names(&code, "super::") } else { Vec::new() };
        let by_super = by_super.into_iter().filter(|name| floor(name).is_some());
        for name in names(&code, "crate::").into_iter().chain(by_super) {
            match floor(&name) {
                None => found.push(format!("{path} names crate::{name}, which is no room")),
                Some(used) if used > own => found.push(format!("{path} reaches up to crate::{name}")),
                Some(used) if used < own && [room, &name].iter().all(|door| FRONT_DOORS.contains(door)) => {
                    found.push(format!("{path} goes from one front door to another, crate::{name}"));
                }
                Some(_) => (),
            }
        }
    }
    if PURE.contains(&room) {
        let std = names(&code, "std::").into_iter().filter(|name| matches!(&**name, "env" | "fs" | "net"));
        let std = std.map(|name| format!("std::{name}"));
        let other = ["hyper::", "tokio::", "Instant", "SystemClock", "SystemTime"].into_iter();
        let other = other.filter(|word| places(&code, word).next().is_some()).map(str::to_owned);
        found.extend(std.chain(other).map(|word| format!("{path} is in a pure room and names {word}")));
    }
    found
}

/// The items of a `mod.rs` or `lib.rs` that are neither `mod …;` nor `use …;`.
fn definitions(code: &str) -> impl Iterator<Item = String> {
    let mut bare = code.to_owned();
    while let Some(start) = bare.find("#[").or_else(|| bare.find("#![")) {
        let end = bare.get(start..).and_then(|rest| rest.find("]\n")).map_or(bare.len(), |at| start + at + 1);
        bare.replace_range(start..end, "");
    }
    let items: Vec<String> = bare.split(';').map(|item| item.trim().to_owned()).collect();
    items.into_iter().filter(|item| {
        let bare = item.strip_prefix("pub").map_or(&**item, |rest| match rest.strip_prefix('(') {
            Some(scoped) => scoped.split_once(')').map_or(rest, |(_, rest)| rest),
            None => rest,
        });
        let bare = bare.trim_start();
        !(bare.is_empty() || bare.starts_with("use ") || (bare.starts_with("mod ") && !bare.contains('{')))
    })
}

/// The names right after `root`, with groups opened: `crate::{a::B, c}` names `a` and `c`.
fn names(code: &str, root: &str) -> Vec<String> {
    let mut found = Vec::new();
    for rest in places(code, root) {
        let Some(group) = rest.strip_prefix('{') else {
            found.push(word(rest));
            continue;
        };
        let (mut depth, mut expects_name) = (0, true);
        for (at, letter) in group.char_indices() {
            match letter {
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                '{' => depth += 1,
                ',' if depth == 0 => expects_name = true,
                _ if depth == 0 && expects_name && !letter.is_whitespace() => {
                    found.push(word(group.get(at..).unwrap_or_default()));
                    expects_name = false;
                }
                _ => (),
            }
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

/// What follows each place where `text` stands as a word of its own.
fn places<'a>(code: &'a str, text: &'a str) -> impl Iterator<Item = &'a str> {
    code.match_indices(text).filter_map(move |(at, _)| {
        let (before, rest) = (code.get(..at)?, code.get(at + text.len()..)?);
        let apart = !before.ends_with(in_word) && (text.ends_with("::") || !rest.starts_with(in_word));
        apart.then_some(rest)
    })
}

fn word(text: &str) -> String {
    text.chars().take_while(|letter| in_word(*letter)).collect()
}

fn in_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// The text without its comments and literals.
fn code(text: &str) -> String {
    let (mut kept, mut rest) = (String::new(), text);
    while let Some(letter) = rest.chars().next() {
        let hidden = comment_or_literal(rest);
        if hidden == 0 {
            kept.push(letter);
        }
        rest = rest.get(hidden.max(letter.len_utf8())..).unwrap_or_default();
    }
    kept
}

/// How many bytes at the start of `rest` are a comment or a literal.
fn comment_or_literal(rest: &str) -> usize {
    let up_to = |prefix: usize, end: &str| {
        let body = rest.get(prefix..).unwrap_or_default();
        prefix + body.find(end).map_or(body.len(), |at| at + end.len())
    };
    let quoted = |quote: char| {
        let mut escaped = false;
        let end = rest.char_indices().skip(1).find(|(_, letter)| {
            let closes = *letter == quote && !escaped;
            escaped = *letter == '\\' && !escaped;
            closes
        });
        end.map_or(rest.len(), |(at, _)| at + 1)
    };
    let hashes = rest.strip_prefix('r').map(|raw| raw.len() - raw.trim_start_matches('#').len());
    let mut letters = rest.chars();
    match (letters.next(), letters.next(), letters.next()) {
        (Some('/'), Some('/'), _) => up_to(2, "\n") - 1,
        (Some('/'), Some('*'), _) => up_to(2, "*/"),
        (Some('"'), ..) => quoted('"'),
        (Some('\''), Some('\\'), _) | (Some('\''), Some(_), Some('\'')) => quoted('\''),
        _ => match hashes {
            Some(count) if rest.get(count + 1..).is_some_and(|body| body.starts_with('"')) => {
                up_to(count + 2, &format!("\"{}", "#".repeat(count)))
            }
            _ => 0,
        },
    }
}

/// The modules of `lib.rs` in their order.
fn floors(lib: &str) -> Vec<String> {
    let code = code(lib);
    code.lines()
        .filter_map(|line| line.trim().trim_start_matches("pub ").strip_prefix("mod "))
        .map(word)
        .collect()
}

/// Every Rust file under `directory`, as its path from the package root and its text.
fn read(directory: &Path, files: &mut Vec<(String, String)>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            read(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(&path);
            files.push((name.display().to_string(), fs::read_to_string(&path)?));
        }
    }
    files.sort();
    Ok(())
}

#[test]
fn every_room_uses_only_those_below_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let floors = floors(&fs::read_to_string(source.join("lib.rs")).unwrap());
    let mut files = Vec::new();
    read(&source, &mut files).unwrap();

    let found: Vec<String> = files.iter().flat_map(|(path, text)| problems(&floors, path, text)).collect();

    assert!(floors.len() >= 3 && files.len() >= floors.len(), "the checker looked at nothing");
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// What the checker says of a made-up file in a made-up house.
fn verdict(path: &str, text: &str) -> Vec<String> {
    let lib =
        "//! House.\n\npub mod clock;\nmod identity;\npub mod authz;\npub mod proxy;\npub mod workload;\n";
    problems(&floors(lib), path, &format!("//! A file.\n{text}"))
}

#[test]
fn an_import_from_a_higher_floor_is_reported() {
    let up = ["src/identity/mod.rs reaches up to crate::authz"];

    assert_eq!(verdict("src/identity/mod.rs", "pub use crate::authz::Decision;"), up);
    assert_eq!(verdict("src/identity/mod.rs", "use crate::{clock::Timestamp, authz::{self, ask}};"), up);
    assert_eq!(verdict("src/identity/mod.rs", "use super::authz;"), up);
    assert_eq!(
        verdict("src/clock.rs", "fn f() { super::proxy::run() }"),
        ["src/clock.rs reaches up to crate::proxy"]
    );
    assert_eq!(verdict("src/authz/ask.rs", "use crate::{clock::Timestamp, identity};"), [""; 0]);
    assert_eq!(verdict("src/authz/ask.rs", "use super::super::proxy;").len(), 1);
    assert_eq!(verdict("src/authz/ask.rs", "use crate::Decision;").len(), 1);
}

#[test]
fn front_doors_stay_apart_even_downwards() {
    let found = verdict("src/workload/api.rs", "use crate::proxy::Attestor;");

    assert_eq!(found, ["src/workload/api.rs goes from one front door to another, crate::proxy"]);
}

#[test]
fn a_pure_room_names_no_clock_disk_net_or_runtime() {
    let found = verdict("src/authz/gate.rs", "use std::{fmt, net::IpAddr};\nuse tokio::time::Instant;");

    let said = "src/authz/gate.rs is in a pure room and names";
    assert_eq!(found, [format!("{said} std::net"), format!("{said} tokio::"), format!("{said} Instant")]);
    assert_eq!(verdict("src/authz/gate.rs", "use std::fmt;\nstruct InstantNoodles;"), [""; 0]);
    assert_eq!(verdict("src/proxy/tcp.rs", "use std::net::IpAddr;"), [""; 0]);
}

#[test]
fn a_face_defines_nothing_and_every_file_says_what_it_is() {
    assert_eq!(
        verdict(
            "src/authz/mod.rs",
            "#![expect(\n    x,\n)]\n#[cfg(test)]\nmod tests;\npub(crate) use ask::{Ask, Asked};"
        ),
        [""; 0]
    );
    assert_eq!(verdict("src/authz/mod.rs", "mod ask;\npub fn decide() {}").len(), 1);
    assert_eq!(verdict("src/authz/mod.rs", "mod ask { }").len(), 1);
    assert_eq!(problems(&[], "src/clock.rs", "use std::fmt;"), ["src/clock.rs does not open with `//! `"]);
}

#[test]
fn comments_and_literals_are_not_imports() {
    let text = r####"// crate::proxy
        /* crate::proxy */ fn f<'a>(x: &'a str) -> (&'a str, char, &'a str) {
            ("\" crate::proxy", '"', r#"" crate::proxy "#)
        }"####;

    assert_eq!(verdict("src/authz/ask.rs", text), [""; 0]);
    assert_eq!(verdict("src/authz/ask.rs", "const A: char = '\\'';\nuse crate::proxy;").len(), 1);
}
