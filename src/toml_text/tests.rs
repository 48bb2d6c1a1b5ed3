//! What readers of tables and values report, in the words an operator sees.

use std::path::Path;
use std::time::Duration;

use crate::id::ServiceId;
use crate::toml_text::{Document, TableReader, Value};

/// Reads `text` with `read` and gives back what that found, and what was reported.
fn read<T>(text: &str, read: impl FnOnce(TableReader<'_>) -> T) -> (T, Vec<String>) {
    let document = Document::parse(Path::new("a.toml"), text).unwrap();
    let found = read(document.root());
    (found, document.into_problems().iter().map(ToString::to_string).collect())
}

/// Reads the key `x` with `read`.
fn read_x<T>(text: &str, as_what: impl FnOnce(&Value<'_>) -> Option<T>) -> (Option<T>, Vec<String>) {
    read(text, |mut root| {
        let found = root.required("x", as_what);
        root.finish();
        found
    })
}

#[test]
fn values_are_read_as_what_they_are() {
    assert_eq!(read_x("x = 'a'", |x| x.text().map(str::to_owned)).0.as_deref(), Some("a"));
    assert_eq!(read_x("x = true", |x| x.boolean()).0, Some(true));
    assert_eq!(read_x("x = 0x1f", |x| x.integer(0..=255_u8)).0, Some(31));
    assert_eq!(read_x("x = '1h30m'", |x| x.duration()).0, Some(Duration::from_secs(5400)));
    assert_eq!(read_x("x = '64KiB'", |x| x.byte_size::<usize>()).0, Some(65_536));
    assert_eq!(
        read_x("x = '127.0.0.1:80'", |x| x.parse::<core::net::SocketAddr>()).0.map(|a| a.port()),
        Some(80)
    );
    assert_eq!(
        read_x("x = ['a', 'b']", |x| x.list(Value::parse::<ServiceId>)).0.map(|ids| ids.len()),
        Some(2)
    );
    for text in ["x = 2026-01-01T00:00:00Z", "x = '2026-01-01T00:00:00Z'", "x = 2026-01-01 02:00:00+02:00"] {
        assert_eq!(read_x(text, |x| x.timestamp()).0, Some(crate::clock::Timestamp::FLOOR), "{text}");
    }
}

#[test]
fn a_wrong_type_is_named_with_the_right_one() {
    let report = |text, as_what: fn(&Value<'_>) -> Option<()>| read_x(text, as_what).1.concat();

    assert_eq!(report("x = 1", |x| x.text().map(drop)), "a.toml:1:5: x: expected a string, found an integer");
    assert_eq!(
        report("x = 'y'", |x| x.boolean().map(drop)),
        "a.toml:1:5: x: expected true or false, found a string"
    );
    assert_eq!(
        report("x = 1.5", |x| x.integer(0..=9_u8).map(drop)),
        "a.toml:1:5: x: expected an integer, found a float"
    );
    assert_eq!(report("x = {}", |x| x.array().map(drop)), "a.toml:1:5: x: expected an array, found a table");
    assert_eq!(report("x = []", |x| x.table().map(drop)), "a.toml:1:5: x: expected a table, found an array");
    assert_eq!(
        report("[x]", |x| x.tables().map(drop)),
        "a.toml:1:1: x: expected an array of tables, headed [[…]], found a table"
    );
    assert_eq!(
        report("x = [{}, 1]", |x| x.tables().map(drop)),
        "a.toml:1:10: x[2]: expected a table, found an integer"
    );
    assert_eq!(
        report("x = 1", |x| x.timestamp().map(drop)),
        "a.toml:1:5: x: expected a time such as 2026-01-01T00:00:00Z, found an integer"
    );
}

#[test]
fn a_value_out_of_bounds_is_named_with_the_bounds() {
    for text in ["x = 0", "x = 256", "x = -1", "x = 9223372036854775807"] {
        assert_eq!(
            read_x(text, |x| x.integer(1..=255_u16)).1,
            ["a.toml:1:5: x: expected an integer from 1 to 255"],
            "{text}"
        );
    }
    assert_eq!(
        read_x("x = '5GiB'", |x| x.byte_size::<u32>()).1,
        ["a.toml:1:5: x: expected a size such as \"512B\", \"64KiB\" or \"1MiB\""]
    );
    for text in ["x = 2026-01-01", "x = 2026-01-01T00:00:00", "x = 'soon'"] {
        assert_eq!(
            read_x(text, |x| x.timestamp()).1,
            ["a.toml:1:5: x: expected an RFC 3339 time such as 2026-01-01T00:00:00Z"],
            "{text}"
        );
    }
}

#[test]
fn a_mistyped_word_is_answered_with_the_nearest() {
    let words = [("active", 1), ("inactive", 2)];

    assert_eq!(read_x("x = 'inactive'", |x| x.word(&words)).0, Some(2));
    assert_eq!(
        read_x("x = 'actve'", |x| x.word(&words)).1,
        ["a.toml:1:5: x: expected `active` or `inactive`, did you mean `active`?"]
    );
    assert_eq!(read_x("x = 'on'", |x| x.word(&words)).1, ["a.toml:1:5: x: expected `active` or `inactive`"]);
}

#[test]
fn unknown_keys_are_named_with_the_nearest_that_is_missing_or_with_all() {
    let (_, problems) = read("nmae = 1\ntype = 2\nzebra = 3\n", |mut root| {
        drop((root.value("name"), root.value("type"), root.value("types")));
        root.finish();
    });

    assert_eq!(
        problems,
        [
            "a.toml:1:1: nmae: unknown key, did you mean `name`?",
            "a.toml:3:1: zebra: unknown key; known here: name, type, types",
        ]
    );
}

#[test]
fn every_problem_is_reported_with_the_way_to_it() {
    let text = "[[app]]\nid = 'ledger'\n[[app.grant]]\nproduct = 1\n[[app]]\nid = 'no word'\n[[app.grant]]\n";

    let (_, problems) = read(text, |mut root| {
        for mut app in root.tables("app") {
            drop(app.value("id"));
            for mut grant in app.tables("grant") {
                assert_eq!(grant.required("product", Value::text), None);
                grant.finish();
            }
            app.finish();
        }
        root.finish();
    });

    assert_eq!(
        problems,
        [
            "a.toml:4:11: app.ledger.grant[1].product: expected a string, found an integer",
            "a.toml:7:1: app[2].grant[1].product: the key is missing",
        ]
    );
}

#[test]
fn a_list_is_read_to_its_end() {
    let (list, problems) = read_x("x = ['ok', 1, '-']", |x| x.list(Value::parse::<ServiceId>));

    assert_eq!(list, None);
    assert_eq!(problems.len(), 2, "{problems:?}");
}

#[test]
fn a_table_of_names_gives_its_entries() {
    let (names, problems) = read("[x.b]\nttl = '1'\n[x.'a b']\n", |mut root| {
        let entries = root.table("x").map(TableReader::entries).unwrap_or_default();
        root.finish();
        entries
            .into_iter()
            .map(|(name, value)| {
                let mut table = value.table().unwrap();
                assert_eq!(table.optional("ttl", Value::duration), None);
                table.finish();
                name.to_owned()
            })
            .collect::<Vec<_>>()
    });

    assert_eq!(names, ["a b", "b"]);
    assert_eq!(
        problems,
        ["a.toml:2:7: x.b.ttl: expected a duration such as \"500ms\", \"10s\", \"5m\", \"1h30m\" or \"7d\""]
    );
}

#[test]
fn a_value_tells_where_it_stands() {
    assert_eq!(read_x("\nx = 1", |x| Some(x.place().to_string())).0.as_deref(), Some("a.toml:2"));
}
