//! Path rules: which policy paths an operation covers, segment by segment, never a regular expression.
//!
//! | in a rule | matches |
//! | --- | --- |
//! | `/` alone | every path |
//! | `orders` | this segment, byte for byte |
//! | `*`, `{name}` | exactly one segment that is not empty |
//! | `report-*.csv` | one segment; each `*` in it is any run of characters, also none |
//! | `/**` at the end | a slash and whatever follows, also nothing |
//!
//! One slash at the end of the request is ignored, unless the rule ends with `/**`.

use std::fmt;
use std::str::FromStr;

use crate::registry::{AmbiguousPath, PolicyPath};

/// Which paths an operation covers.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct PathRule {
    written: Box<str>,
    segments: Box<[Segment]>,
    tail: Tail,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Segment {
    /// Any one segment that is not empty.
    Any,
    Literal(Box<str>),
    /// What stands before, between and after the asterisks; at least two pieces.
    Pattern(Box<[Box<str>]>),
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Tail {
    /// A slash and anything, or nothing, behind it.
    Anything,
    /// The path ends here.
    End,
    /// The rule is `/`: every path.
    Everything,
}

/// Why a text is no path rule.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidPathRule {
    /// `**` in the middle, or next to other characters.
    #[error("'**' stands alone as the last segment; write '/orders/**'")]
    DoubleAsterisk,
    /// A path that no request can have.
    #[error("no request has such a path: {0}")]
    Path(#[from] AmbiguousPath),
    /// One variable twice.
    #[error("the same variable stands twice")]
    RepeatedVariable,
    /// A slash at the end.
    #[error("a rule does not end with '/': one at the end of a request is ignored")]
    TrailingSlash,
    /// Braces that are no `{name}` on their own.
    #[error("a variable is a whole segment, '{{name}}', of letters, digits and '_'")]
    Variable,
}

impl PathRule {
    /// Whether the rule covers `path`.
    #[must_use]
    pub fn matches(&self, path: &PolicyPath<'_>) -> bool {
        let path = path.as_str();
        let text = match self.tail {
            Tail::Everything => return true,
            Tail::Anything => path,
            Tail::End => path.strip_suffix('/').unwrap_or(path),
        };
        let mut given = text.split('/').skip(1);
        let begins =
            self.segments.iter().all(|segment| given.next().is_some_and(|text| segment.matches(text)));
        begins && given.next().is_some() == (self.tail == Tail::Anything)
    }

    /// Whether every path that `other` covers is surely covered by this rule, too. A no may be a yes that is hard to see.
    #[must_use]
    pub fn surely_covers(&self, other: &Self) -> bool {
        let begins = || {
            other.segments.len() >= self.segments.len()
                && self.segments.iter().zip(&other.segments).all(|(one, other)| one.surely_covers(other))
        };
        match (self.tail, other.tail) {
            _ if self.covers_all() => true,
            (Tail::Anything, Tail::Anything) => begins(),
            // A slash and something behind it: one segment more than the rule has.
            (Tail::Anything, Tail::End) => begins() && other.segments.len() > self.segments.len(),
            (Tail::End, Tail::End) => begins() && other.segments.len() == self.segments.len(),
            (Tail::Anything | Tail::End, Tail::Everything) | (Tail::End, Tail::Anything) => false,
            (Tail::Everything, _) => true,
        }
    }

    /// Whether the rule covers every path, as `/` and `/**` do.
    #[must_use]
    pub fn covers_all(&self) -> bool {
        match self.tail {
            Tail::Everything => true,
            Tail::Anything => self.segments.is_empty(),
            Tail::End => false,
        }
    }

    /// Which segment of a path the variable `{name}` stands for, counted from none.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<usize> {
        let is_it = |segment: &str| {
            segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).is_some_and(|one| one == name)
        };
        self.written.split('/').skip(1).position(is_it)
    }

    /// The rule as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.written
    }
}

impl Segment {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => !text.is_empty(),
            Self::Literal(literal) => **literal == *text,
            Self::Pattern(pieces) => matches_pattern(pieces, text),
        }
    }

    fn surely_covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Literal(_) | Self::Pattern(_), Self::Literal(text)) => self.matches(text),
            (Self::Literal(_) | Self::Pattern(_), Self::Any | Self::Pattern(_)) => self == other,
        }
    }
}

/// The first and the last piece are anchored; those between are taken at their first occurrence, which leaves the
/// most room for the rest, so nothing is ever tried twice.
fn matches_pattern(pieces: &[Box<str>], text: &str) -> bool {
    let [first, between @ .., last] = pieces else { return false };
    let Some(inner) = text.strip_prefix(&**first).and_then(|rest| rest.strip_suffix(&**last)) else {
        return false;
    };
    !text.is_empty()
        && between
            .iter()
            .try_fold(inner, |rest, piece| rest.split_once(&**piece).map(|(_, behind)| behind))
            .is_some()
}

impl FromStr for PathRule {
    type Err = InvalidPathRule;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "/" {
            return Ok(Self { written: text.into(), segments: Box::default(), tail: Tail::Everything });
        }
        let (front, tail) = match text.strip_suffix("/**") {
            Some(front) => (front, Tail::Anything),
            None => (text, Tail::End),
        };
        if front.contains("**") {
            return Err(InvalidPathRule::DoubleAsterisk);
        }
        if front.is_empty() && tail == Tail::Anything {
            return Ok(Self { written: text.into(), segments: Box::default(), tail });
        }
        let inner = front.strip_prefix('/').ok_or(AmbiguousPath::Relative)?;
        if inner.ends_with('/') && tail == Tail::End {
            return Err(InvalidPathRule::TrailingSlash);
        }
        let mut variables: Vec<&str> = inner.split('/').filter(|segment| segment.starts_with('{')).collect();
        variables.sort_unstable();
        if variables.windows(2).any(|pair| matches!(pair, [left, right] if left == right)) {
            return Err(InvalidPathRule::RepeatedVariable);
        }
        let segments = inner.split('/').map(segment).collect::<Result<_, _>>()?;
        Ok(Self { written: text.into(), segments, tail })
    }
}

fn segment(text: &str) -> Result<Segment, InvalidPathRule> {
    if text.is_empty() {
        return Err(AmbiguousPath::EmptySegment.into());
    }
    if text.contains(['{', '}']) {
        return variable(text);
    }
    // The spelling is that of a policy path, in which an asterisk stays what it is.
    let path = format!("/{text}");
    let spelt = PolicyPath::parse(&path)?;
    let spelt = spelt.as_str().trim_start_matches('/');
    let pieces: Box<[Box<str>]> = spelt.split('*').map(Box::from).collect();
    Ok(match &*pieces {
        _ if text == "*" => Segment::Any,
        [_] => Segment::Literal(spelt.into()),
        _ => Segment::Pattern(pieces),
    })
}

fn variable(text: &str) -> Result<Segment, InvalidPathRule> {
    let name = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or_default();
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if is_name { Ok(Segment::Any) } else { Err(InvalidPathRule::Variable) }
}

impl fmt::Display for PathRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn covers(rule: &str, path: &str) -> bool {
        let rule: PathRule = rule.parse().unwrap();
        PolicyPath::parse(path).is_ok_and(|path| rule.matches(&path))
    }

    fn check(rules: &[&str], rows: &[(&str, &str)]) {
        for (path, cells) in rows {
            for (rule, cell) in rules.iter().zip(cells.split(' ')) {
                assert_eq!(covers(rule, path), cell == "Y", "{rule} on {path}");
            }
            assert_eq!(cells.split(' ').count(), rules.len());
        }
    }

    /// The example that Apigee documents, but for one cell: `/v1/*` also covers `/v1/weatherapikey/`, since a slash
    /// at the end means nothing here.
    #[test]
    fn the_documented_example_holds() {
        check(
            &["/", "/v1/*", "/v1/**", "/v1/weatherapikey/*/2/**"],
            &[
                ("/v1/weatherapikey", "Y Y Y n"),
                ("/v1/weatherapikey/", "Y Y Y n"),
                ("/v1/weatherapikey/1", "Y n Y n"),
                ("/v1/weatherapikey/1/", "Y n Y n"),
                ("/v1/weatherapikey/1/2", "Y n Y n"),
                ("/v1/weatherapikey/1/2/", "Y n Y Y"),
                ("/v1/weatherapikey/1/2/3/", "Y n Y Y"),
                ("/v1/weatherapikey/1/a/2/3/", "Y n Y n"),
            ],
        );
    }

    /// Where Apigee's own three implementations disagree. `/v1//x` is refused before any rule is asked.
    #[test]
    fn no_rule_covers_more_than_it_says() {
        check(
            &["/", "/*", "/**", "/*/2/**", "/a.b", "/reports/{id}", "/v1/*/x", "/foo"],
            &[
                ("/", "Y n Y n n n n n"),
                ("/1", "Y Y Y n n n n n"),
                ("/1/", "Y Y Y n n n n n"),
                ("/1/2", "Y n Y n n n n n"),
                ("/1/2/", "Y n Y Y n n n n"),
                ("/1/a/2/3", "Y n Y n n n n n"),
                ("/aXb", "Y Y Y n n n n n"),
                ("/reports/7", "Y n Y n n Y n n"),
                ("/v1//x", "n n n n n n n n"),
                ("/FOO", "Y Y Y n n n n n"),
                ("/foo/", "Y Y Y n n n n Y"),
            ],
        );
    }

    #[test]
    fn a_tail_needs_its_slash() {
        check(
            &["/orders/**"],
            &[
                ("/orders", "n"),
                ("/orders/", "Y"),
                ("/orders/1/2", "Y"),
                ("/ordersx/1", "n"),
                ("/x/orders/1", "n"),
            ],
        );
    }

    #[test]
    fn an_asterisk_inside_a_segment_stays_inside() {
        check(
            &["/r-*.csv", "/*a*b*", "/a*a", "/*"],
            &[
                ("/r-2026.csv", "Y n n Y"),
                ("/r-.csv", "Y n n Y"),
                ("/r-1/x.csv", "n n n n"),
                ("/r-a.csvx", "n n n Y"),
                ("/xaxbx", "n Y n Y"),
                ("/ba", "n n n Y"),
                ("/a", "n n n Y"),
                ("/aa", "n n Y Y"),
            ],
        );
    }

    #[test]
    fn rule_and_request_may_spell_a_path_differently() {
        assert!(covers("/caf%c3%a9", "/caf%C3%A9"));
        assert!(covers("/users/@me", "/users/%40me"));
        assert!(covers("/users/%40me", "/users/@me"));
        assert!(covers("/a%20b", "/a%20b"));
        assert!(covers("/a|b", "/a%7Cb"));
    }

    #[test]
    fn what_could_cover_nothing_or_too_much_is_refused() {
        use AmbiguousPath::{DotSegment, EmptySegment, NotOnlyPath, RawNonAscii, Relative};
        use InvalidPathRule::{DoubleAsterisk, Path, RepeatedVariable, TrailingSlash, Variable};
        for (text, reason) in [
            ("", Path(Relative)),
            ("orders", Path(Relative)),
            ("*", Path(Relative)),
            ("**", DoubleAsterisk),
            ("/**/a", DoubleAsterisk),
            ("/a**", DoubleAsterisk),
            ("/a/**/", DoubleAsterisk),
            ("/***", DoubleAsterisk),
            ("/**/**", DoubleAsterisk),
            ("/a//b", Path(EmptySegment)),
            ("//**", Path(EmptySegment)),
            ("//", TrailingSlash),
            ("/a/", TrailingSlash),
            ("/a/../b", Path(DotSegment)),
            ("/a/%2e%2e/b", Path(DotSegment)),
            ("/a?b", Path(NotOnlyPath)),
            ("/é", Path(RawNonAscii)),
            ("/a%2fb", Path(AmbiguousPath::EscapedSlash)),
            ("/{}", Variable),
            ("/{a b}", Variable),
            ("/x{a}", Variable),
            ("/{a}{b}", Variable),
            ("/{a", Variable),
            ("/a}", Variable),
            ("/{a}/b/{a}", RepeatedVariable),
        ] {
            assert_eq!(text.parse::<PathRule>(), Err(reason), "{text}");
        }
    }

    #[test]
    fn a_rule_prints_as_it_was_written() {
        for text in ["/", "/**", "/orders/{id}/lines/*", "/caf%c3%a9/**"] {
            assert_eq!(text.parse::<PathRule>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_rule_covers_another_only_where_that_is_sure() {
        for (wide, narrow, sure) in [
            ("/", "/**", true),
            ("/**", "/", true),
            ("/**", "/orders", true),
            ("/orders/**", "/orders/1", true),
            ("/orders/**", "/orders", false),
            ("/orders/**", "/orders/**", true),
            ("/orders/**", "/orders/*/lines/**", true),
            ("/orders/*/**", "/orders/**", false),
            ("/orders/*", "/orders/{id}", true),
            ("/orders/{id}", "/orders/r-*.csv", true),
            ("/orders/r-*.csv", "/orders/r-7.csv", true),
            ("/orders/r-*.csv", "/orders/*", false),
            ("/orders/*", "/orders/*/lines", false),
            ("/orders/*", "/orders/**", false),
            ("/orders/7", "/orders/7", true),
            ("/orders/7", "/orders/*", false),
            ("/orders", "/", false),
        ] {
            let rule = |text: &str| text.parse::<PathRule>().unwrap();

            assert_eq!(rule(wide).surely_covers(&rule(narrow)), sure, "{wide} over {narrow}");
        }
    }

    proptest! {
        /// What is called sure is so for every path.
        #[test]
        fn a_rule_that_surely_covers_another_covers_its_paths(
            wide in "/|(/(a|b|\\*|a\\*|\\{x\\})){0,3}(/\\*\\*)?",
            narrow in "/|(/(a|b|ab|\\*|a\\*|\\*b)){0,3}(/\\*\\*)?",
            path in "(/[ab]{1,2}){0,4}/?",
        ) {
            if let (Ok(wide), Ok(narrow), Ok(path)) =
                (wide.parse::<PathRule>(), narrow.parse::<PathRule>(), PolicyPath::parse(&path))
            {
                prop_assert!(!wide.surely_covers(&narrow) || !narrow.matches(&path) || wide.matches(&path));
            }
        }

        #[test]
        fn any_text_is_a_rule_or_refused(text in any::<String>(), path in any::<String>()) {
            if let (Ok(rule), Ok(path)) = (text.parse::<PathRule>(), PolicyPath::parse(&path)) {
                let again: PathRule = rule.to_string().parse().unwrap();
                prop_assert_eq!(again.matches(&path), rule.matches(&path));
            }
        }

        #[test]
        fn any_likely_text_is_a_rule_or_refused(text in "(/|\\*|\\*\\*|a|b|\\{a\\}|%2e|%41|\\.){0,10}", path in "(/[ab]{1,3}){0,4}/?") {
            if let (Ok(rule), Ok(path)) = (text.parse::<PathRule>(), PolicyPath::parse(&path)) {
                let again: PathRule = rule.to_string().parse().unwrap();
                prop_assert_eq!(again.matches(&path), rule.matches(&path));
            }
        }

        /// A rule without wildcards covers its own path, and nothing longer.
        #[test]
        fn a_literal_rule_covers_itself_only(text in "(/[a-c]{1,3}){1,4}", other in "(/[a-c]{1,3}){1,4}/?") {
            prop_assert!(covers(&text, &text));
            prop_assert_eq!(covers(&text, &other), other.trim_end_matches('/') == text);
        }

        /// The pattern matcher agrees with trying everything.
        #[test]
        fn patterns_agree_with_trying_everything(pattern in "[ab]{0,2}\\*([ab]{1,2}\\*){0,2}[ab]{0,2}", text in "[ab]{1,6}") {
            fn exhaustive(pattern: &[u8], text: &[u8]) -> bool {
                match (pattern, text) {
                    ([], []) => true,
                    ([b'*', rest @ ..], _) => (0..=text.len()).any(|end| exhaustive(rest, &text[end..])),
                    ([wanted, rest @ ..], [given, after @ ..]) => wanted == given && exhaustive(rest, after),
                    _ => false,
                }
            }
            let path = format!("/{text}");

            prop_assert_eq!(covers(&format!("/{pattern}"), &path), exhaustive(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
