//! What an answer says of limits: `RateLimit-Policy`, `RateLimit` and `Retry-After`.
//!
//! The fields follow draft-ietf-httpapi-ratelimit-headers: lists of strings with parameters (RFC 9651). An answer from the
//! service states the quotas; one that refuses states all policies, and of those that refuse how long they do.

use std::fmt::Display;
use std::io::Write as _;
use std::time::Duration;

use super::response::number_into;
use crate::authz::Shortage;
use crate::limit::{Entry, Measure, Standing, Statement};

/// How one limit stands, with a name of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Level {
    name: String,
    standing: Standing,
    limit: u64,
    window: Duration,
    remaining: u64,
    resets: Duration,
}

/// What a caller is told that has to wait.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Notice {
    retry_after: Duration,
    levels: Vec<Level>,
}

impl Notice {
    /// That the caller may try again after this long.
    pub(super) const fn to_wait(retry_after: Duration) -> Self {
        Self { retry_after, levels: Vec::new() }
    }

    /// What is short.
    pub(super) fn of(shortage: &Shortage<'_>) -> Self {
        let level = |entry: &Entry<'_>| Level {
            name: entry.to_string(),
            standing: entry.standing,
            limit: entry.limit,
            window: entry.window,
            remaining: entry.remaining,
            resets: entry.resets,
        };
        let levels = shortage.statement.iter().map(level).collect();
        Self { retry_after: shortage.retry_after, levels }
    }

    /// The value of `Retry-After`, in seconds (RFC 9110 §10.2.3).
    pub(super) fn retry_after(&self) -> u64 {
        whole_seconds(self.retry_after).max(1)
    }

    /// The names of the policies that do not let the request pass.
    pub(super) fn violated(&self) -> impl Iterator<Item = &str> {
        self.levels.iter().filter(|level| level.standing == Standing::Exceeded).map(|level| &*level.name)
    }

    /// All fields, by name.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'static str, Vec<u8>)> {
        let mut policy = Vec::new();
        let mut state = Vec::new();
        for level in &self.levels {
            push_policy(&mut policy, &level.name, level.limit, level.window);
            if level.standing == Standing::Exceeded {
                push_state(&mut state, &level.name, level.remaining, level.resets);
            }
        }
        let retry_after = self.retry_after().to_string().into_bytes();
        [("retry-after", retry_after), (POLICY, policy), (STATE, state)]
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
    }

    /// The same for people, one limit a line.
    pub(super) fn lines(&self) -> Vec<String> {
        let line = |level: &Level| line(&level.name, level.limit, level.remaining, "left", level.resets);
        self.levels.iter().map(line).collect()
    }
}

/// How the limits stand behind a yes, for people, one a line.
pub(super) fn lines(statement: &Statement<'_>) -> Vec<String> {
    let line = |entry: &Entry<'_>| line(entry, entry.limit, entry.remaining, "left after it", entry.resets);
    statement.iter().map(line).collect()
}

fn line(name: impl Display, limit: u64, remaining: u64, left: &str, resets: Duration) -> String {
    format!("{name}: {remaining} of {limit} {left}, more in {} s", whole_seconds(resets))
}

/// Appends the field lines of an answer from the service to `out`; nothing where there is no quota.
pub(super) fn write_lines(out: &mut Vec<u8>, statement: &Statement<'_>) {
    if quotas(statement).next().is_none() {
        return;
    }
    out.extend_from_slice(b"ratelimit-policy: ");
    policies(out, statement);
    out.extend_from_slice(b"\r\nratelimit: ");
    states(out, statement);
    out.extend_from_slice(b"\r\n");
}

/// The same as names and values; none where there is no quota.
pub(super) fn values(statement: &Statement<'_>) -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    let (mut policy, mut state) = (Vec::new(), Vec::new());
    policies(&mut policy, statement);
    states(&mut state, statement);
    [(POLICY, policy), (STATE, state)].into_iter().filter(|(_, value)| !value.is_empty())
}

/// Whether a field of the service's answer would contradict the agent's.
pub(super) fn is_limit_field(name: &str) -> bool {
    name.eq_ignore_ascii_case(POLICY) || name.eq_ignore_ascii_case(STATE)
}

const POLICY: &str = "ratelimit-policy";
const STATE: &str = "ratelimit";

fn quotas<'s, 'a>(statement: &'s Statement<'a>) -> impl Iterator<Item = &'s Entry<'a>> {
    statement.iter().filter(|entry| entry.measure == Measure::Quota)
}

fn policies(out: &mut Vec<u8>, statement: &Statement<'_>) {
    let begin = out.len();
    for entry in quotas(statement) {
        separate(out, begin);
        push_policy_item(out, entry, entry.limit, entry.window);
    }
}

fn states(out: &mut Vec<u8>, statement: &Statement<'_>) {
    let begin = out.len();
    for entry in quotas(statement) {
        separate(out, begin);
        push_state_item(out, entry, entry.remaining, entry.resets);
    }
}

fn push_policy(out: &mut Vec<u8>, name: &str, limit: u64, window: Duration) {
    separate(out, 0);
    push_policy_item(out, name, limit, window);
}

fn push_state(out: &mut Vec<u8>, name: &str, remaining: u64, resets: Duration) {
    separate(out, 0);
    push_state_item(out, name, remaining, resets);
}

fn separate(out: &mut Vec<u8>, begin: usize) {
    if out.len() > begin {
        out.extend_from_slice(b", ");
    }
}

/// `"daily";q=1000;w=86400`
fn push_policy_item(out: &mut Vec<u8>, name: impl Display, limit: u64, window: Duration) {
    push_name(out, name);
    out.extend_from_slice(b";q=");
    number_into(out, limit);
    out.extend_from_slice(b";w=");
    number_into(out, whole_seconds(window).max(1));
}

/// `"daily";r=50;t=30`
fn push_state_item(out: &mut Vec<u8>, name: impl Display, remaining: u64, resets: Duration) {
    push_name(out, name);
    out.extend_from_slice(b";r=");
    number_into(out, remaining);
    out.extend_from_slice(b";t=");
    number_into(out, whole_seconds(resets));
}

/// A name is made of ids, which hold nothing that a string would have to escape (RFC 9651 §3.3.3).
fn push_name(out: &mut Vec<u8>, name: impl Display) {
    // Writing to a Vec cannot fail.
    if write!(out, "\"{name}\"").is_err() {
        out.extend_from_slice(b"\"?\"");
    }
}

/// Rounded up: whoever comes back then does not come too early.
fn whole_seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}
