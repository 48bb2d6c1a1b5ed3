//! Reading one TOML table key by key.

use std::ops::Range;
use std::rc::Rc;

use toml::de::{DeTable, DeValue};

use crate::suggest;
use crate::toml_text::Value;
use crate::toml_text::document::{Page, Place, Step, Trail, is_bare};

/// Reads a table: asks for keys one by one and at the end reports what nobody asked for.
///
/// A problem is reported at once and the reading goes on, so that all problems are found in one pass. A reader that
/// gives `None` for a key that is there has reported why.
#[derive(Debug)]
#[must_use = "call `finish`, which reports unknown keys"]
pub struct TableReader<'d> {
    place: Place<'d>,
    table: &'d DeTable<'d>,
    asked: Vec<&'static str>,
}

impl<'d> TableReader<'d> {
    pub(super) fn new(
        page: &'d Page<'d>,
        trail: Option<Rc<Trail<'d>>>,
        table: &'d DeTable<'d>,
        span: Range<usize>,
    ) -> Self {
        Self { place: Place { page, trail, step: None, span }, table, asked: Vec::new() }
    }

    /// The value of `key`, read by `read`, if there is one.
    pub fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value<'d>) -> Option<T>,
    ) -> Option<T> {
        self.value(key).and_then(|value| read(&value))
    }

    /// The value of `key`, read by `read`; reports when there is none.
    pub fn required<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value<'d>) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(key);
        if value.is_none() {
            self.at(key).problem("the key is missing");
        }
        value.and_then(|value| read(&value))
    }

    /// The value of `key` as it stands, if there is one.
    pub fn value(&mut self, key: &'static str) -> Option<Value<'d>> {
        self.asked.push(key);
        let value = self.table.get(key)?;
        Some(Value::new(Place { span: value.span(), ..self.at(key) }, value.get_ref()))
    }

    /// The table under `key`, if there is one.
    pub fn table(&mut self, key: &'static str) -> Option<Self> {
        self.optional(key, Value::table)
    }

    /// The tables in the array under `key`; none when there is no such key.
    ///
    /// In problems, a table is named by its `id` where it has a plain one, and by its number otherwise.
    pub fn tables(&mut self, key: &'static str) -> Vec<Self> {
        self.optional(key, Value::tables).unwrap_or_default()
    }

    /// All keys with their values in alphabetical order, for a table whose keys are names; none of them is unknown.
    #[must_use]
    pub fn entries(self) -> Vec<(&'d str, Value<'d>)> {
        let place = |key: &'d str, span| Place { step: Some(Step::Key(key)), span, ..self.place.clone() };
        self.table
            .iter()
            .map(|(key, value)| {
                (&**key.get_ref(), Value::new(place(key.get_ref(), value.span()), value.get_ref()))
            })
            .collect()
    }

    /// Reports a problem with the table as a whole.
    pub fn problem(&self, message: impl Into<String>) {
        self.place.problem(message);
    }

    /// Where the table stands.
    #[must_use]
    pub fn place(&self) -> Place<'d> {
        self.place.clone()
    }

    /// Whether the table has `key`. Does not count as asking for it.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Reports all keys that nobody has asked for, with the nearest that somebody has.
    pub fn finish(self) {
        for key in self.table.keys() {
            let text = &**key.get_ref();
            if !self.asked.contains(&text) {
                let place = Place { step: Some(Step::Key(text)), span: key.span(), ..self.place.clone() };
                place.problem(format!("unknown key{}", self.guess(text)));
            }
        }
    }

    fn guess(&self, key: &str) -> String {
        let open = || self.asked.iter().copied().filter(|asked| !self.has(asked));
        match suggest::did_you_mean(key, open()) {
            none if none.is_empty() => {
                let mut known = self.asked.clone();
                known.sort_unstable();
                known.dedup();
                format!("; known here: {}", known.join(", "))
            }
            guess => guess,
        }
    }

    fn at(&self, key: &'static str) -> Place<'d> {
        Place { step: Some(Step::Key(key)), ..self.place.clone() }
    }
}

/// The name of a table in an array: its `id`, if that is a plain word, else what it is called `otherwise`.
pub(super) fn item_step<'d>(otherwise: Option<Step<'d>>, value: &'d DeValue<'d>) -> Option<Step<'d>> {
    let id = value.as_table().and_then(|table| table.get("id")).and_then(|id| id.get_ref().as_str());
    id.filter(|id| is_bare(id) && id.len() <= LONGEST_NAME).map(Step::Key).or(otherwise)
}

/// Longer names are not repeated in messages.
const LONGEST_NAME: usize = 64;
