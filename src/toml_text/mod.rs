//! Reading TOML text by hand: all problems at once, each with its place, its key and the word that was meant.

mod problem;
mod document;
mod table;
mod value;
mod units;

pub use document::{Document, Place};
pub use problem::Problem;
pub use table::TableReader;
pub use units::{InvalidByteSize, InvalidDuration, parse_byte_size, parse_duration};
pub use value::Value;

#[cfg(test)]
mod tests;
