//! One TOML file as text, and the problems found in it so far.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use toml::de::DeTable;

use crate::toml_text::{Problem, TableReader};

/// A file that is well-formed TOML, and the problems its readers found.
///
/// ```
/// # use postern::toml_text::{Document, Value};
/// # use std::path::Path;
/// let document = Document::parse(Path::new("a.toml"), "nme = 'x'\nttl = '1h'\n").unwrap();
/// let mut root = document.root();
/// let name = root.required("name", Value::text);
/// let ttl = root.optional("ttl", Value::duration);
/// root.finish();
///
/// let messages: Vec<String> = document.into_problems().iter().map(ToString::to_string).collect();
/// assert_eq!(messages, [
///     "a.toml:1:1: name: the key is missing",
///     "a.toml:1:1: nme: unknown key, did you mean `name`?",
/// ]);
/// ```
#[derive(Debug)]
pub struct Document<'t> {
    pub(super) page: Page<'t>,
    root: DeTable<'t>,
}

impl<'t> Document<'t> {
    /// Parses `text`, which was read from `file`.
    ///
    /// # Errors
    /// Everything that makes `text` ill-formed, by place.
    pub fn parse(file: &Path, text: &'t str) -> Result<Self, Vec<Problem>> {
        let page = Page::new(file, text);
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let start = error.span().map_or(text.len(), |span| span.start);
            page.report(start, String::new(), error.message().to_owned());
        }
        if page.problems.borrow().is_empty() {
            Ok(Self { page, root: root.into_inner() })
        } else {
            let mut problems = page.into_problems();
            // What follows a broken line is often noise; the first problem of a line is the one to repair.
            problems.dedup_by_key(|problem| problem.line);
            Err(problems)
        }
    }

    /// Reads the table at the top.
    pub fn root(&self) -> TableReader<'_> {
        TableReader::new(&self.page, None, &self.root, 0..0)
    }

    /// Takes the problems found so far, by place.
    #[must_use]
    pub fn take_problems(&self) -> Vec<Problem> {
        in_order(self.page.problems.take())
    }

    /// The problems found, by place.
    #[must_use]
    pub fn into_problems(self) -> Vec<Problem> {
        self.page.into_problems()
    }
}

/// The text with its lines, and the list of problems that all readers share.
#[derive(Debug)]
pub(super) struct Page<'t> {
    file: PathBuf,
    text: &'t str,
    /// Where each line begins, in bytes.
    lines: Vec<usize>,
    problems: RefCell<Vec<Problem>>,
}

impl<'t> Page<'t> {
    fn new(file: &Path, text: &'t str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(end, _)| end + 1)).collect();
        Self { file: file.to_owned(), text, lines, problems: RefCell::default() }
    }

    pub(super) fn report(&self, start: usize, key: String, message: String) {
        let (line, column) = self.position(start);
        self.problems.borrow_mut().push(Problem { file: self.file.clone(), line, column, key, message });
    }

    /// Line and column, counted from one; the column in characters.
    fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|&start| start <= offset).max(1);
        let start = self.lines.get(line - 1).copied().unwrap_or_default();
        let before = self.text.get(start..offset).unwrap_or_default();
        (line, before.chars().count() + 1)
    }

    fn into_problems(self) -> Vec<Problem> {
        in_order(self.problems.into_inner())
    }
}

fn in_order(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort();
    problems.dedup();
    problems
}

/// The way from the top of a file down to a table, kept as steps and put into words only for a message.
#[derive(Debug)]
pub(super) struct Trail<'d> {
    pub(super) above: Option<Rc<Self>>,
    pub(super) step: Step<'d>,
}

/// One step down.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step<'d> {
    /// To an item of an array, counted from one.
    Item(usize),
    /// To the value of a key, or to the table of that name in an array.
    Key(&'d str),
}

/// The words for a way down: `app.ledger.grant[1].product`.
pub(super) fn in_words(trail: Option<&Trail<'_>>, last: Option<Step<'_>>) -> String {
    let mut steps: Vec<Step<'_>> = last.into_iter().collect();
    let mut here = trail;
    while let Some(trail) = here {
        steps.push(trail.step);
        here = trail.above.as_deref();
    }
    steps.reverse();
    let mut words = String::new();
    for step in steps {
        append(&mut words, step);
    }
    words
}

fn append(words: &mut String, step: Step<'_>) {
    match step {
        Step::Item(number) => words.push_str(&format!("[{number}]")),
        Step::Key(key) => {
            if !words.is_empty() {
                words.push('.');
            }
            if is_bare(key) { words.push_str(key) } else { words.push_str(&format!("{key:?}")) }
        }
    }
}

/// Whether TOML lets a key stand without quotes.
pub(super) fn is_bare(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Where something stands, and what it is called there. Prints as `file:line`.
#[derive(Clone)]
pub struct Place<'d> {
    pub(super) page: &'d Page<'d>,
    pub(super) trail: Option<Rc<Trail<'d>>>,
    pub(super) step: Option<Step<'d>>,
    pub(super) span: Range<usize>,
}

impl<'d> Place<'d> {
    /// Reports a problem with what stands here.
    pub fn problem(&self, message: impl Into<String>) {
        self.page.report(self.span.start, self.key(), message.into());
    }

    /// The line, counted from one.
    #[must_use]
    pub fn line(&self) -> usize {
        self.page.position(self.span.start).0
    }

    /// What it is called: `app.ledger.status`.
    #[must_use]
    pub fn key(&self) -> String {
        in_words(self.trail.as_deref(), self.step)
    }

    /// The trail that leads here, for what lies below.
    pub(super) fn descend(&self) -> Option<Rc<Trail<'d>>> {
        match self.step {
            Some(step) => Some(Rc::new(Trail { above: self.trail.clone(), step })),
            None => self.trail.clone(),
        }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.page.file.display(), self.line())
    }
}

impl fmt::Debug for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {self}", self.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syntax(text: &str) -> Vec<String> {
        let problems = Document::parse(Path::new("a.toml"), text).unwrap_err();
        problems.iter().map(|problem| format!("{}:{}", problem.line, problem.column)).collect()
    }

    #[test]
    fn every_broken_line_is_named() {
        assert_eq!(syntax("a = 1\nb = \nc = 3\nd = [1\n"), ["2:5", "4:7"]);
        assert_eq!(syntax("a = 1\na = 2\n"), ["2:1"]);
    }

    #[test]
    fn places_are_counted_in_lines_and_characters() {
        let page = Page::new(Path::new("a.toml"), "é = 1\r\nxy\n");

        assert_eq!(page.position(0), (1, 1));
        assert_eq!(page.position(3), (1, 3));
        assert_eq!(page.position(9), (2, 2));
        assert_eq!(page.position(11), (3, 1));
        assert_eq!(page.position(1000), (3, 1));
    }

    #[test]
    fn a_key_that_needs_quotes_gets_them() {
        let trail = Trail { above: None, step: Step::Key("a b\n") };

        assert_eq!(in_words(Some(&trail), Some(Step::Item(2))), "\"a b\\n\"[2]");
    }
}
