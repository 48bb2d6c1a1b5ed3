//! Conditions of operations: what a request must say of itself, of its app or of its token besides.
//!
//! ```text
//! condition  = comparison *( "and" comparison )
//! comparison = [ "not" ] value ( "==" / "in" ) value
//! value      = "path." name / "app.attributes." name / "claim." name / text / "[" text *( "," text ) "]"
//! ```
//!
//! **Invariant:** what is not there, or not of the right form, meets no comparison, not even one with `not`. So a condition
//! never lets somebody in because something is missing.

use std::fmt;

use serde_json::Value as Json;

use crate::registry::{PathRule, PolicyPath};

/// What an app is said to be, by name, for conditions to look at.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Attributes(Box<[(Box<str>, AttributeValue)]>);

/// One text, or several.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AttributeValue {
    /// One.
    One(Box<str>),
    /// Any number.
    Several(Box<[Box<str>]>),
}

impl Attributes {
    /// What is called `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&AttributeValue> {
        self.0.iter().find(|(own, _)| **own == *name).map(|(_, attribute)| attribute)
    }
}

impl FromIterator<(Box<str>, AttributeValue)> for Attributes {
    fn from_iter<I: IntoIterator<Item = (Box<str>, AttributeValue)>>(attributes: I) -> Self {
        Self(attributes.into_iter().collect())
    }
}

/// What a condition may look at.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The path of the request; a raw connection has none.
    pub path: Option<&'a PolicyPath<'a>>,
    /// What the app is said to be.
    pub attributes: &'a Attributes,
    /// The claims of the caller's access token, by name.
    pub claim: &'a dyn Fn(&str) -> Option<&'a Json>,
}

impl fmt::Debug for Facts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Facts").field("path", &self.path).field("attributes", &self.attributes).finish()
    }
}

/// A condition: comparisons that must all hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Condition {
    written: Box<str>,
    comparisons: Box<[Comparison]>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Comparison {
    wanted: bool,
    left: Operand,
    relation: Relation,
    right: Operand,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Relation {
    Equals,
    In,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Operand {
    Attribute(Box<str>),
    Claim(Box<str>),
    /// The segment of the path at this position.
    Path(usize),
    Text(Box<str>),
    Texts(Box<[Box<str>]>),
}

/// Why a text is no condition.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidCondition {
    /// Both sides are written down, so that it is always true or always false.
    #[error("both sides of a comparison are constants")]
    Constant,
    /// Something else was expected.
    #[error("expected {expected}, found {found}")]
    Expected {
        /// What could stand there.
        expected: &'static str,
        /// What does.
        found: String,
    },
    /// A list is compared with `==`, or is on the left.
    #[error("a list stands only behind `in`")]
    List,
    /// Alternatives are operations of their own.
    #[error("there is no `or`: write a second operation for the alternative")]
    Or,
    /// The path has no such variable.
    #[error("the path has no variable {{{0}}}")]
    UnknownVariable(String),
}

impl Condition {
    /// Reads a condition of an operation with this path; one on raw connections has none.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, path: Option<&PathRule>) -> Result<Self, InvalidCondition> {
        let mut words = Words { rest: text };
        let mut comparisons = Vec::new();
        loop {
            comparisons.push(comparison(&mut words, path)?);
            match words.next()? {
                None => break,
                Some(Word::Name("and")) => {}
                Some(Word::Name("or")) => return Err(InvalidCondition::Or),
                Some(other) => return Err(other.instead_of("`and` or the end")),
            }
        }
        Ok(Self { written: text.into(), comparisons: comparisons.into() })
    }

    /// Whether it is met.
    #[must_use]
    pub fn is_met(&self, facts: Facts<'_>) -> bool {
        self.comparisons.iter().all(|comparison| comparison.holds(facts) == Some(comparison.wanted))
    }

    /// Whether some token could meet it: whether all that it asks of anything but claims is so.
    #[must_use]
    pub fn can_be_met(&self, facts: Facts<'_>) -> bool {
        let holds = |comparison: &Comparison| comparison.holds(facts) == Some(comparison.wanted);
        self.comparisons.iter().all(|comparison| comparison.asks_for_claim() || holds(comparison))
    }

    /// Whether it looks at what a token claims.
    #[must_use]
    pub fn asks_for_claim(&self) -> bool {
        self.comparisons.iter().any(Comparison::asks_for_claim)
    }

    /// The condition as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.written
    }
}

impl Comparison {
    const fn asks_for_claim(&self) -> bool {
        matches!(self.left, Operand::Claim(_)) || matches!(self.right, Operand::Claim(_))
    }

    /// Whether the two sides compare; `None` where one of them is missing or has another form.
    fn holds(&self, facts: Facts<'_>) -> Option<bool> {
        let left = self.left.find(facts)?.single()?;
        let right = self.right.find(facts)?;
        match self.relation {
            Relation::Equals => Some(left == right.single()?),
            Relation::In => right.contain(left),
        }
    }
}

impl Operand {
    fn find<'s, 'f: 's>(&'s self, facts: Facts<'f>) -> Option<Found<'s>> {
        match self {
            Self::Attribute(name) => Some(match facts.attributes.get(name)? {
                AttributeValue::One(text) => Found::One(Text::Plain(text)),
                AttributeValue::Several(texts) => Found::Several(texts),
            }),
            Self::Claim(name) => Some(match (facts.claim)(name)? {
                Json::String(text) => Found::One(Text::Plain(text)),
                Json::Array(values) => Found::Claims(values),
                Json::Bool(_) | Json::Null | Json::Number(_) | Json::Object(_) => return None,
            }),
            // A service that cuts parameters off would take it for another one.
            Self::Path(position) => {
                let segment = facts.path?.segments().nth(*position)?;
                (!segment.is_empty() && !segment.contains(';')).then_some(Found::One(Text::Segment(segment)))
            }
            Self::Text(text) => Some(Found::One(Text::Plain(text))),
            Self::Texts(texts) => Some(Found::Several(texts)),
        }
    }
}

/// What stands on one side.
enum Found<'a> {
    Claims(&'a [Json]),
    One(Text<'a>),
    Several(&'a [Box<str>]),
}

impl<'a> Found<'a> {
    fn single(self) -> Option<Text<'a>> {
        match self {
            Self::One(text) => Some(text),
            Self::Claims(_) | Self::Several(_) => None,
        }
    }

    /// Whether `text` is among them. A claim of one value is often written as a text and not as a list.
    fn contain(&self, text: Text<'_>) -> Option<bool> {
        match self {
            Self::Claims(values) if values.iter().all(Json::is_string) => {
                Some(values.iter().filter_map(Json::as_str).any(|one| Text::Plain(one) == text))
            }
            Self::Claims(_) => None,
            Self::One(one) => Some(*one == text),
            Self::Several(texts) => Some(texts.iter().any(|one| Text::Plain(one) == text)),
        }
    }
}

/// A text as it is meant, or with the escapes of a path.
#[derive(Clone, Copy)]
enum Text<'a> {
    Plain(&'a str),
    Segment(&'a str),
}

impl Text<'_> {
    fn bytes(&self) -> impl Iterator<Item = u8> + '_ {
        let (text, escaped) = match self {
            Self::Plain(text) => (text, false),
            Self::Segment(text) => (text, true),
        };
        let mut bytes = text.bytes();
        std::iter::from_fn(move || match bytes.next()? {
            b'%' if escaped => {
                let (high, low) = (hex(bytes.next()?), hex(bytes.next()?));
                Some(high << 4 | low)
            }
            byte => Some(byte),
        })
    }
}

impl PartialEq<Text<'_>> for Text<'_> {
    fn eq(&self, other: &Text<'_>) -> bool {
        self.bytes().eq(other.bytes())
    }
}

/// A digit of an escape in a policy path, which has only upper-case ones.
const fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => digit.wrapping_sub(b'A').wrapping_add(10),
    }
}

fn comparison(words: &mut Words<'_>, path: Option<&PathRule>) -> Result<Comparison, InvalidCondition> {
    const VALUE: &str = "`path.…`, `app.attributes.…`, `claim.…`, a text in quotes or a list of them";

    let mut first = words.next()?;
    let wanted = first != Some(Word::Name("not"));
    if !wanted {
        first = words.next()?;
    }
    let left = operand(first, words, path, VALUE)?;
    let relation = match words.next()? {
        Some(Word::Equals) => Relation::Equals,
        Some(Word::Name("in")) => Relation::In,
        other => return Err(Word::instead(other, "`==` or `in`")),
    };
    let second = words.next()?;
    let right = operand(second, words, path, VALUE)?;
    let is_list = |operand: &Operand| matches!(operand, Operand::Texts(_));
    let is_constant = |operand: &Operand| matches!(operand, Operand::Text(_) | Operand::Texts(_));
    if is_list(&left) || relation == Relation::Equals && is_list(&right) {
        return Err(InvalidCondition::List);
    }
    if is_constant(&left) && is_constant(&right) {
        return Err(InvalidCondition::Constant);
    }
    Ok(Comparison { wanted, left, relation, right })
}

fn operand(
    word: Option<Word<'_>>,
    words: &mut Words<'_>,
    path: Option<&PathRule>,
    expected: &'static str,
) -> Result<Operand, InvalidCondition> {
    match word {
        Some(Word::Text(text)) => Ok(Operand::Text(text.into())),
        Some(Word::Open) => texts(words).map(Operand::Texts),
        Some(Word::Name(name)) => {
            if let Some(variable) = name.strip_prefix("path.") {
                let position = path.and_then(|path| path.variable(variable));
                return position
                    .map(Operand::Path)
                    .ok_or_else(|| InvalidCondition::UnknownVariable(variable.to_owned()));
            }
            let named = |prefix: &str| name.strip_prefix(prefix).filter(|name| is_name(name)).map(Box::from);
            let attribute = named("app.attributes.").map(Operand::Attribute);
            attribute
                .or_else(|| named("claim.").map(Operand::Claim))
                .ok_or_else(|| Word::instead(word, expected))
        }
        other => Err(Word::instead(other, expected)),
    }
}

/// The texts of a list that is open.
fn texts(words: &mut Words<'_>) -> Result<Box<[Box<str>]>, InvalidCondition> {
    let mut texts = Vec::new();
    loop {
        match words.next()? {
            Some(Word::Text(text)) => texts.push(text.into()),
            other => return Err(Word::instead(other, "a text in quotes")),
        }
        match words.next()? {
            Some(Word::Comma) => {}
            Some(Word::Close) => return Ok(texts.into()),
            other => return Err(Word::instead(other, "`,` or `]`")),
        }
    }
}

/// Whether something can be called so: letters, digits, `_` and `-`.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Word<'t> {
    Close,
    Comma,
    Equals,
    Name(&'t str),
    Open,
    Text(&'t str),
}

impl Word<'_> {
    fn instead(found: Option<Self>, expected: &'static str) -> InvalidCondition {
        let end = || InvalidCondition::Expected { expected, found: "the end".to_owned() };
        found.map_or_else(end, |found| found.instead_of(expected))
    }

    fn instead_of(self, expected: &'static str) -> InvalidCondition {
        let found = match self {
            Self::Close => "`]`".to_owned(),
            Self::Comma => "`,`".to_owned(),
            Self::Equals => "`==`".to_owned(),
            Self::Name(name) => format!("`{}`", name.escape_debug()),
            Self::Open => "`[`".to_owned(),
            Self::Text(text) => format!("the text {text:?}"),
        };
        InvalidCondition::Expected { expected, found }
    }
}

/// What is left to read.
struct Words<'t> {
    rest: &'t str,
}

impl<'t> Words<'t> {
    fn next(&mut self) -> Result<Option<Word<'t>>, InvalidCondition> {
        let text = self.rest.trim_start_matches([' ', '\t']);
        let Some(first) = text.chars().next() else {
            self.rest = text;
            return Ok(None);
        };
        let (word, length) = match first {
            '[' => (Word::Open, 1),
            ']' => (Word::Close, 1),
            ',' => (Word::Comma, 1),
            '=' if text.starts_with("==") => (Word::Equals, 2),
            '\'' | '"' => {
                let behind = text.get(1..).unwrap_or_default();
                let end = behind.find(first).ok_or_else(|| InvalidCondition::Expected {
                    expected: "the quote that ends the text",
                    found: "the end".to_owned(),
                })?;
                (Word::Text(behind.get(..end).unwrap_or_default()), end + 2)
            }
            _ => {
                let part = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.');
                let length = text.find(|letter| !part(letter)).unwrap_or(text.len());
                if length == 0 {
                    let found = format!("`{}`", first.escape_debug());
                    return Err(InvalidCondition::Expected { expected: "a name, a text or `==`", found });
                }
                (Word::Name(text.get(..length).unwrap_or_default()), length)
            }
        };
        self.rest = text.get(length..).unwrap_or_default();
        Ok(Some(word))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULE: &str = "/{tenant}/orders/{id}/**";

    fn parse(text: &str) -> Result<Condition, InvalidCondition> {
        Condition::parse(text, Some(&RULE.parse().unwrap()))
    }

    /// Whether `condition` is met on `path` by an app of the tenant `acme` with the regions `eu` and `us`, whose token has some
    /// claims.
    fn met(condition: &str, path: &str) -> bool {
        let attributes: Attributes = [
            ("tenant".into(), AttributeValue::One("acme".into())),
            ("city".into(), AttributeValue::One("São Paulo/1".into())),
            ("regions".into(), AttributeValue::Several(["eu".into(), "us".into()].into())),
        ]
        .into_iter()
        .collect();
        let claims = serde_json::json!({
            "tenant": "acme", "groups": ["admin", "ops"], "mixed": ["admin", 7], "level": 7, "none": null
        });
        let claim = |name: &str| claims.get(name);
        let path = PolicyPath::parse(path).unwrap();
        let facts = Facts { path: Some(&path), attributes: &attributes, claim: &claim };
        parse(condition).unwrap().is_met(facts)
    }

    #[test]
    fn a_variable_of_the_path_is_compared_with_what_the_app_is_said_to_be() {
        let condition = "path.tenant == app.attributes.tenant";

        assert!(met(condition, "/acme/orders/7/"));
        for path in ["/other/orders/7/", "/ACME/orders/7/", "/acme;v=1/orders/7/", "/acme%20/orders/7/"] {
            assert!(!met(condition, path), "{path}");
        }
        assert!(met("app.attributes.tenant == path.tenant and path.id == '7'", "/acme/orders/7/lines"));
        assert!(!met("app.attributes.tenant == path.tenant and path.id == '7'", "/acme/orders/8/lines"));
    }

    #[test]
    fn escapes_of_a_path_mean_what_they_stand_for() {
        assert!(met("path.tenant == \"a b\"", "/a%20b/orders/7/"));
        assert!(met("path.tenant == 'a;b'", "/a%3Bb/orders/7/"));
        assert!(met("path.tenant == 'São'", "/S%C3%A3o/orders/7/"));
        assert!(!met("path.tenant == 'a%20b'", "/a%20b/orders/7/"));
        assert!(!met("path.tenant == 'a'", "/a%20b/orders/7/"));
    }

    #[test]
    fn a_value_may_be_one_of_several() {
        assert!(met("path.tenant in app.attributes.regions", "/eu/orders/7/"));
        assert!(!met("path.tenant in app.attributes.regions", "/ap/orders/7/"));
        assert!(met("path.tenant in ['ap', 'eu']", "/eu/orders/7/"));
        assert!(met("'admin' in claim.groups", "/a/orders/7/"));
        assert!(!met("'root' in claim.groups", "/a/orders/7/"));
        assert!(met("path.tenant in claim.tenant", "/acme/orders/7/"));
        assert!(met("claim.tenant == path.tenant", "/acme/orders/7/"));
        assert!(!met("claim.tenant == path.tenant", "/other/orders/7/"));
    }

    #[test]
    fn what_is_missing_or_of_another_form_meets_nothing_not_even_a_not() {
        for value in [
            "claim.nobody",
            "claim.level",
            "claim.none",
            "claim.groups",
            "app.attributes.nothing",
            "app.attributes.regions",
        ] {
            assert!(!met(&format!("{value} == 'x'"), "/a/orders/7/"), "{value}");
            assert!(!met(&format!("not {value} == 'x'"), "/a/orders/7/"), "{value}");
        }
        assert!(
            !met("'admin' in claim.mixed", "/a/orders/7/") && !met("not 'x' in claim.mixed", "/a/orders/7/")
        );
        assert!(!met("not path.tenant == 'admin'", "/admin;x/orders/7/"), "a server may cut parameters off");
        assert!(met("not path.tenant == 'admin'", "/acme/orders/7/"));
        assert!(!met("not path.tenant == 'admin'", "/admin/orders/7/"));
        assert!(!met("not path.tenant in ['a', 'b'] and path.id == '7'", "/a/orders/7/"));
        let condition = Condition::parse("not app.attributes.x == 'y'", None).unwrap();
        let facts = Facts { path: None, attributes: &Attributes::default(), claim: &|_| None };
        assert!(!condition.is_met(facts));
    }

    #[test]
    fn what_is_no_condition_says_why() {
        for (text, message) in [
            (
                "",
                "expected `path.…`, `app.attributes.…`, `claim.…`, a text in quotes or a list of them, found the end",
            ),
            ("path.tenant", "expected `==` or `in`, found the end"),
            ("path.tenant = 'x'", "expected a name, a text or `==`, found `=`"),
            ("path.tenant != 'x'", "expected a name, a text or `==`, found `!`"),
            ("path.tenant == 'x", "expected the quote that ends the text, found the end"),
            ("path.tennant == 'x'", "the path has no variable {tennant}"),
            (
                "app.tenant == 'x'",
                "expected `path.…`, `app.attributes.…`, `claim.…`, a text in quotes or a list of them, found `app.tenant`",
            ),
            (
                "claim. == 'x'",
                "expected `path.…`, `app.attributes.…`, `claim.…`, a text in quotes or a list of them, found `claim.`",
            ),
            (
                "path.id == 'x' or path.id == 'y'",
                "there is no `or`: write a second operation for the alternative",
            ),
            ("path.id == 'x' path.id", "expected `and` or the end, found `path.id`"),
            (
                "path.id == 'x' and",
                "expected `path.…`, `app.attributes.…`, `claim.…`, a text in quotes or a list of them, found the end",
            ),
            ("path.id == ['x']", "a list stands only behind `in`"),
            ("['x'] in claim.a", "a list stands only behind `in`"),
            ("path.id in []", "expected a text in quotes, found `]`"),
            ("path.id in ['x' 'y']", "expected `,` or `]`, found the text \"y\""),
            ("'x' == 'x'", "both sides of a comparison are constants"),
            (
                "not not path.id == 'x'",
                "expected `path.…`, `app.attributes.…`, `claim.…`, a text in quotes or a list of them, found `not`",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), message, "{text}");
        }
        let without = Condition::parse("path.tenant == 'x'", None).unwrap_err();
        assert_eq!(without, InvalidCondition::UnknownVariable("tenant".to_owned()));
    }

    proptest! {
        #[test]
        fn any_text_is_a_condition_or_refused(text in any::<String>()) {
            drop(parse(&text));
        }

        #[test]
        fn any_likely_text_is_a_condition_or_refused(text in "(path\\.id|claim\\.a|app\\.attributes\\.b| |==|in|and|not|'x'|\\[|\\]|,){0,12}") {
            if let Ok(condition) = parse(&text) {
                let facts = Facts { path: None, attributes: &Attributes::default(), claim: &|_| None };
                prop_assert!(!condition.is_met(facts), "nothing is there to meet it");
            }
        }
    }
}
