//! Named things read so far, for references to find and for second definitions to be noticed.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use crate::suggest;
use crate::toml_text::{Place, Value};

/// What is said of a reference that leads nowhere.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum References {
    /// Nothing: a file is missing, and it may be there.
    MayBeMissing,
    /// It is a problem.
    MustExist,
}

/// Things of one sort, by name.
pub(super) struct Shelf<'d, T> {
    sort: &'static str,
    references: References,
    things: HashMap<Arc<str>, (T, Place<'d>)>,
    /// How many more times a nearest word is looked for: each time costs a walk along the whole shelf.
    guesses: Cell<usize>,
}

impl<'d, T: Clone> Shelf<'d, T> {
    pub(super) fn new(sort: &'static str, references: References) -> Self {
        Self { sort, references, things: HashMap::new(), guesses: Cell::new(GUESSES) }
    }

    /// Puts a thing on the shelf, or reports that its name is taken.
    pub(super) fn put(&mut self, place: Place<'d>, name: &str, thing: T) {
        match self.things.get(name) {
            Some((_, earlier)) => {
                place.problem(format!("there is {} `{name}` already, at {earlier}", self.a_sort()))
            }
            None => drop(self.things.insert(Arc::from(name), (thing, place))),
        }
    }

    /// Puts a thing on the shelf that may well be there already.
    pub(super) fn put_again(&mut self, place: Place<'d>, name: &str, thing: T) {
        if !self.things.contains_key(name) {
            self.things.insert(Arc::from(name), (thing, place));
        }
    }

    /// The thing that a value names; reports when there is none.
    pub(super) fn find(&self, reference: &Value<'d>) -> Option<T> {
        let name = reference.text()?;
        let found = self.things.get(name).map(|(thing, _)| thing.clone());
        if found.is_none() && self.references == References::MustExist {
            let guess = match self.guesses.get() {
                0 => String::new(),
                left => {
                    self.guesses.set(left - 1);
                    suggest::did_you_mean(name, self.things.keys().map(|known| &**known))
                }
            };
            reference.problem(format!("there is no {} `{}`{guess}", self.sort, name.escape_debug()));
        }
        found
    }

    /// Everything on the shelf.
    pub(super) fn things(self) -> Vec<T> {
        self.things.into_values().map(|(thing, _)| thing).collect()
    }

    fn a_sort(&self) -> String {
        format!("{} {}", if self.sort.starts_with('a') { "an" } else { "a" }, self.sort)
    }
}

const GUESSES: usize = 100;
