//! `postern usage`: who used what, and how much, from the agent or, without one, from what it has left.

use std::fmt::Write as _;
use std::path::Path;

use super::args::{Expiry, UsageArgs};
use super::locate;
use super::output::{self, Verdict};
use super::table::Table;
use crate::admin::{ClientError, UsageWanted};
use crate::clock::{Clock as _, SystemClock};
use crate::telemetry::{UsageRow, totals, usage_dir};

pub(super) async fn run(config: &Path, args: UsageArgs) -> anyhow::Result<Verdict> {
    let since = args.since.map(|since| match since {
        Expiry::At(at) => at,
        Expiry::In(span) => SystemClock.now() - span,
    });
    let wanted = UsageWanted { since, app: args.app, product: args.product };
    let rows = match locate::client(config)?.usage(&wanted).await {
        Err(ClientError::NotRunning(_)) => left_behind(config, &wanted)?,
        answer => answer?,
    };
    let any = !rows.is_empty();
    if args.json {
        output::print_json(&rows)?;
    } else if args.csv {
        output::print(&csv(&rows))?;
    } else if any {
        output::print(&table(rows))?;
    } else {
        output::print("Nobody used anything.\n")?;
    }
    Ok(Verdict::of(any))
}

/// What an agent that does not run any more has written down.
fn left_behind(config: &Path, wanted: &UsageWanted) -> anyhow::Result<Vec<UsageRow>> {
    let found = usage_dir::read(&locate::config(config)?.state_dir);
    found.damage.iter().for_each(|damage| output::tell(&format!("postern: {damage}")));
    // By whole hours, as the agent counts.
    let first = wanted.since.map(|since| since.unix().div_euclid(3_600));
    let rows = found.rows.into_iter();
    let recent = |row: &UsageRow| first.is_none_or(|first| row.hour.unix().div_euclid(3_600) >= first);
    Ok(wanted.of(rows.filter(recent)))
}

/// Totals over all hours.
fn table(rows: Vec<UsageRow>) -> String {
    let mut table =
        Table::new(["APP", "PRODUCT", "OPERATION", "STATUS", "DECISION", "CALLS", "RECEIVED", "SENT"]);
    let word = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    for (key, count) in totals(rows) {
        table.row([
            word(key.app),
            word(key.product),
            word(key.operation),
            key.status,
            key.code,
            count.calls.to_string(),
            count.received.to_string(),
            count.sent.to_string(),
        ]);
    }
    table.to_string()
}

fn csv(rows: &[UsageRow]) -> String {
    let mut text = "hour,app,product,operation,status,code,calls,received,sent\r\n".to_owned();
    for UsageRow { hour, key, count } in rows {
        let names = [&key.app, &key.product, &key.operation, &key.status, &key.code].map(|name| quoted(name));
        let names = names.join(",");
        // Writing to a String cannot fail.
        let written = write!(text, "{hour},{names},{},{},{}\r\n", count.calls, count.received, count.sent);
        debug_assert!(written.is_ok());
    }
    text
}

/// > Fields containing line breaks (CRLF), double quotes, and commas should be enclosed in double-quotes. — RFC 4180 §2
fn quoted(text: &str) -> String {
    if text.contains(['"', ',', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_a_comma_stays_one_value() {
        assert_eq!(quoted("/a,b"), "\"/a,b\"");
        assert_eq!(quoted("say \"x\""), "\"say \"\"x\"\"\"");
        assert_eq!(quoted("/**"), "/**");
    }
}
