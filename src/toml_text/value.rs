//! Reading one TOML value as what it should be.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use toml::de::DeValue;

use crate::clock::Timestamp;
use crate::suggest;
use crate::toml_text::document::{Place, Step};
use crate::toml_text::table::item_step;
use crate::toml_text::{TableReader, units};

/// A value and where it stands. Each reading reports its own problem, and then gives `None`.
#[derive(Clone, Debug)]
pub struct Value<'d> {
    place: Place<'d>,
    value: &'d DeValue<'d>,
}

impl<'d> Value<'d> {
    pub(super) const fn new(place: Place<'d>, value: &'d DeValue<'d>) -> Self {
        Self { place, value }
    }

    /// Reports a problem with this value.
    pub fn problem(&self, message: impl Into<String>) {
        self.place.problem(message);
    }

    /// Where the value stands, for a problem elsewhere that points here.
    #[must_use]
    pub fn place(&self) -> Place<'d> {
        self.place.clone()
    }

    /// A string.
    #[must_use]
    pub fn text(&self) -> Option<&'d str> {
        self.expect("a string", self.value.as_str())
    }

    /// A string that can be read as a `T`: an id, an address, a path rule.
    #[must_use]
    pub fn parse<T>(&self) -> Option<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        self.convert(str::parse)
    }

    /// A string that `read` can read.
    #[must_use]
    pub fn convert<T, E: fmt::Display>(&self, read: impl FnOnce(&'d str) -> Result<T, E>) -> Option<T> {
        self.text().and_then(|text| read(text).map_err(|error| self.problem(error.to_string())).ok())
    }

    /// One of `words`, and what it stands for.
    #[must_use]
    pub fn word<T: Copy>(&self, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        if found.is_none() {
            let names = || words.iter().map(|(word, _)| *word);
            let known: Vec<String> = names().map(|word| format!("`{word}`")).collect();
            let guess = suggest::did_you_mean(text, names());
            self.problem(format!("expected {}{guess}", known.join(" or ")));
        }
        found
    }

    /// A boolean.
    #[must_use]
    pub fn boolean(&self) -> Option<bool> {
        self.expect("true or false", self.value.as_bool())
    }

    /// An integer within `range`.
    #[must_use]
    pub fn integer<T>(&self, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i128> + PartialOrd + fmt::Display,
    {
        let integer = self.expect("an integer", self.value.as_integer())?;
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        let found =
            number.and_then(|number| T::try_from(number).ok()).filter(|number| range.contains(number));
        if found.is_none() {
            self.problem(format!("expected an integer from {} to {}", range.start(), range.end()));
        }
        found
    }

    /// A duration, written as `"1h30m"`.
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        self.convert(units::parse_duration)
    }

    /// A size in bytes, written as `"64KiB"`.
    #[must_use]
    pub fn byte_size<T: TryFrom<u64>>(&self) -> Option<T> {
        self.convert(|text| {
            units::parse_byte_size(text)
                .and_then(|size| T::try_from(size).map_err(|_| units::InvalidByteSize))
        })
    }

    /// An instant: a TOML date-time with its offset, or the same in a string.
    #[must_use]
    pub fn timestamp(&self) -> Option<Timestamp> {
        let text = match self.value {
            DeValue::Datetime(instant) => instant.to_string(),
            DeValue::String(text) => text.to_string(),
            DeValue::Array(_)
            | DeValue::Boolean(_)
            | DeValue::Float(_)
            | DeValue::Integer(_)
            | DeValue::Table(_) => return self.expect("a time such as 2026-01-01T00:00:00Z", None),
        };
        text.parse().map_err(|error: crate::clock::InvalidTimestamp| self.problem(error.to_string())).ok()
    }

    /// Whether it is an array. Reports nothing if it is none.
    #[must_use]
    pub fn is_array(&self) -> bool {
        self.value.as_array().is_some()
    }

    /// Whether it is a string. Reports nothing if it is none.
    #[must_use]
    pub fn is_text(&self) -> bool {
        self.value.as_str().is_some()
    }

    /// The values of an array.
    #[must_use]
    pub fn array(&self) -> Option<Vec<Self>> {
        let items = self.expect("an array", self.value.as_array())?;
        let trail = self.place.descend();
        let place = |number, span| Place {
            page: self.place.page,
            trail: trail.clone(),
            step: Some(Step::Item(number)),
            span,
        };
        Some(
            (1..)
                .zip(items.iter())
                .map(|(number, item)| Self::new(place(number, item.span()), item.get_ref()))
                .collect(),
        )
    }

    /// An array, each value read by `read`; `None` when one of them cannot be read, after reading all.
    #[must_use]
    pub fn list<T>(&self, read: impl Fn(&Self) -> Option<T>) -> Option<Vec<T>> {
        let items: Vec<Option<T>> = self.array()?.iter().map(read).collect();
        items.into_iter().collect()
    }

    /// A table.
    #[must_use]
    pub fn table(&self) -> Option<TableReader<'d>> {
        let table = self.expect("a table", self.value.as_table())?;
        Some(TableReader::new(self.place.page, self.place.descend(), table, self.place.span.clone()))
    }

    /// An array of tables.
    #[must_use]
    pub fn tables(&self) -> Option<Vec<TableReader<'d>>> {
        if self.value.as_table().is_some() {
            return self.expect("an array of tables, headed [[…]]", None);
        }
        self.list(|item| {
            let step = item_step(item.place.step, item.value);
            Self { place: Place { step, ..item.place.clone() }, value: item.value }.table()
        })
    }

    fn expect<T>(&self, wanted: &str, found: Option<T>) -> Option<T> {
        if found.is_none() {
            let kind = match self.value {
                DeValue::Array(_) => "an array",
                DeValue::Boolean(_) => "a boolean",
                DeValue::Datetime(_) => "a date or time",
                DeValue::Float(_) => "a float",
                DeValue::Integer(_) => "an integer",
                DeValue::String(_) => "a string",
                DeValue::Table(_) => "a table",
            };
            self.problem(format!("expected {wanted}, found {kind}"));
        }
        found
    }
}
