//! The keys of the keyed hash under which API keys are stored: `<state>/peppers.toml`, for the agent's eyes only.
//!
//! ```toml
//! p1 = "…"   # 64 hexadecimal digits
//! ```
//!
//! **Invariant:** whoever holds this file and the registry can test guesses, but not undo hashes; whoever holds the registry
//! alone can do nothing. Without this file every API key on file is worthless, so it is never made anew beside an old one.

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SecureRandom;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use zeroize::Zeroizing;

use crate::secret::Secret;
use crate::store::atomic_file::{self, AtomicError};
use crate::store::disk;
use crate::store::seal::{self, BrokenSeal};
use crate::toml_text::{Document, Problem, Value};

/// Why the peppers cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum PepperError {
    /// The system refused something.
    #[error("cannot {step} {}", path.display())]
    Io {
        /// What was attempted, as a verb phrase that the path completes.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("{}", Lines(.0))]
    Malformed(Vec<Problem>),
    /// It was changed since it was written.
    #[error("{} is damaged", path.display())]
    Seal {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: BrokenSeal,
    },
    /// Others may have read it.
    #[error(
        "{} has mode {mode:04o}, so others may have read it: `chmod 600` it if you are sure that nobody did, else replace it \
         and every API key",
        path.display()
    )]
    Permissive {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The system has no randomness to give.
    #[error("the system gives no random bytes")]
    Random,
    /// It could not be written.
    #[error(transparent)]
    Replace(#[from] AtomicError),
}

impl PepperError {
    /// Whether they could be made if only something could be written.
    #[must_use]
    pub fn is_for_want_of_a_disk(&self) -> bool {
        match self {
            // What is there and cannot be read is no want of a disk.
            Self::Io { step, source, .. } => *step != READ && disk::refuses_writing(source),
            Self::Replace(error) => disk::refuses_writing(&error.source),
            Self::Malformed(_) | Self::Permissive { .. } | Self::Random | Self::Seal { .. } => false,
        }
    }
}

struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if number > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

/// The peppers in `state`, by version; none if none was ever made.
///
/// # Errors
/// They cannot be read, are malformed, or others may have read them.
pub fn load(state: &Path) -> Result<Vec<(String, Secret)>, PepperError> {
    let path = state.join(NAME);
    let read = |source| PepperError::Io { step: READ, path: path.clone(), source };
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file.map_err(read)?,
    };
    let mode = file.metadata().map_err(read)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(PepperError::Permissive { path, mode });
    }
    let text = io::read_to_string(file).map(Zeroizing::new).map_err(read)?;
    let peppers = parse(&path, &text).map_err(PepperError::Malformed)?;
    seal::check(&text).map_err(|source| PepperError::Seal { path, source })?;
    Ok(peppers)
}

/// The peppers in `state`; the first one is made if there is none.
///
/// # Errors
/// As for [`load`], or the first one cannot be made.
pub fn load_or_create(state: &Path, random: &dyn SecureRandom) -> Result<Vec<(String, Secret)>, PepperError> {
    let found = load(state)?;
    if !found.is_empty() {
        return Ok(found);
    }
    let fail = |step, path: &Path| {
        let path = path.to_owned();
        move |source| PepperError::Io { step, path, source }
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .map_err(fail("make the state directory", state))?;
    // Two commands that make the first pepper at once must end up with the same one.
    let directory = File::open(state).map_err(fail("open", state))?;
    directory.lock().map_err(fail("lock", state))?;
    let found = load(state)?;
    if !found.is_empty() {
        return Ok(found);
    }
    let mut pepper = Zeroizing::new([0_u8; LENGTH]);
    random.fill(&mut *pepper).map_err(|_| PepperError::Random)?;
    let digits = Zeroizing::new(HEXLOWER.encode(&*pepper));
    let text = Zeroizing::new(seal::sealed(&Zeroizing::new(format!("{HEADER}{FIRST} = \"{}\"\n", *digits))));
    atomic_file::replace(&state.join(NAME), text.as_bytes(), 0o600)?;
    Ok(vec![(FIRST.to_owned(), Secret::new(pepper.to_vec()))])
}

/// Makes one more pepper, under which everything is hashed from now on, and gives its version.
///
/// # Errors
/// As for [`load_or_create`].
pub fn add(state: &Path, random: &dyn SecureRandom) -> Result<String, PepperError> {
    // A first one that is made just now is not the one that is asked for.
    load_or_create(state, random)?;
    let _lock = lock(state)?;
    let mut peppers = load(state)?;
    let number = |version: &str| version.get(1..).and_then(|digits| digits.parse::<u32>().ok()).unwrap_or(0);
    let newest = peppers.iter().map(|(version, _)| number(version)).max().unwrap_or(0);
    let version = format!("p{}", newest + 1);
    let mut pepper = Zeroizing::new([0_u8; LENGTH]);
    random.fill(&mut *pepper).map_err(|_| PepperError::Random)?;
    peppers.push((version.clone(), Secret::new(pepper.to_vec())));
    write(state, &peppers)?;
    Ok(version)
}

/// Throws the pepper `version` away; false if there is none of that version. What was hashed under it is worthless then.
///
/// # Errors
/// They cannot be read or written.
pub fn remove(state: &Path, version: &str) -> Result<bool, PepperError> {
    let _lock = lock(state)?;
    let mut peppers = load(state)?;
    let count = peppers.len();
    peppers.retain(|(known, _)| known != version);
    if peppers.len() == count {
        return Ok(false);
    }
    write(state, &peppers)?;
    Ok(true)
}

fn lock(state: &Path) -> Result<File, PepperError> {
    let fail = |step| move |source| PepperError::Io { step, path: state.to_owned(), source };
    let directory = File::open(state).map_err(fail("open"))?;
    directory.lock().map_err(fail("lock"))?;
    Ok(directory)
}

fn write(state: &Path, peppers: &[(String, Secret)]) -> Result<(), PepperError> {
    let mut text = Zeroizing::new(HEADER.to_owned());
    for (version, pepper) in peppers {
        let digits = Zeroizing::new(HEXLOWER.encode(pepper.expose_secret()));
        for part in [version, " = \"", &*digits, "\"\n"] {
            text.push_str(part);
        }
    }
    let text = Zeroizing::new(seal::sealed(&text));
    let path = path(state);
    if path.exists() {
        return Ok(atomic_file::replace_alike(&path, text.as_bytes())?);
    }
    Ok(atomic_file::replace(&path, text.as_bytes(), 0o600)?)
}

/// Where the peppers of `state` stand.
#[must_use]
pub fn path(state: &Path) -> PathBuf {
    state.join(NAME)
}

/// Whether `state` has peppers at all, readable or not.
///
/// # Errors
/// The system does not say.
pub fn exists(state: &Path) -> Result<bool, PepperError> {
    let path = state.join(NAME);
    match fs::symlink_metadata(&path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(PepperError::Io { step: "look at", path, source }),
    }
}

fn parse(path: &Path, text: &str) -> Result<Vec<(String, Secret)>, Vec<Problem>> {
    let document = Document::parse(path, text)?;
    let root = document.root();
    let place = root.place();
    let mut peppers = Vec::new();
    for (version, value) in root.entries() {
        if is_version(version) {
            peppers.extend(pepper(&value).map(|pepper| (version.to_owned(), pepper)));
        } else {
            value.problem("expected a version: the letter p and a number, such as `p1`");
        }
    }
    if peppers.is_empty() {
        place.problem("expected at least one pepper such as `p1`");
    }
    let problems = document.into_problems();
    if problems.is_empty() { Ok(peppers) } else { Err(problems) }
}

fn pepper(value: &Value<'_>) -> Option<Secret> {
    value.convert(|digits| {
        let bytes = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map(Secret::new).ok();
        bytes.filter(|bytes| bytes.expose_secret().len() == LENGTH).ok_or("expected 64 hexadecimal digits")
    })
}

fn is_version(text: &str) -> bool {
    text.strip_prefix('p').is_some_and(|number| {
        !number.is_empty() && number.len() < 10 && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

const NAME: &str = "peppers.toml";
const READ: &str = "read";
const FIRST: &str = "p1";
const LENGTH: usize = 32;

const HEADER: &str = "# Written by postern; API keys are hashed under these. Without this file no API key works, so back it up\n\
                      # with authorities/, and never show it to anyone.\n\n";

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;

    use super::*;

    fn write(state: &Path, text: &str, mode: u32) {
        atomic_file::replace(&state.join(NAME), text.as_bytes(), mode).unwrap();
    }

    #[test]
    fn the_first_pepper_is_made_once_and_kept_to_its_owner() {
        let place = tempfile::tempdir().unwrap();
        let state = place.path().join("state");

        assert_eq!(load(&state).unwrap(), []);
        let made = load_or_create(&state, &SystemRandom::new()).unwrap();
        let again = load_or_create(&state, &SystemRandom::new()).unwrap();

        assert_eq!(made, again);
        assert_eq!(made, load(&state).unwrap());
        assert_eq!((made[0].0.as_str(), made[0].1.expose_secret().len()), ("p1", 32));
        assert_eq!(fs::metadata(state.join(NAME)).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o7777, 0o700);
    }

    #[test]
    fn one_more_is_the_newest_and_one_that_is_gone_leaves_the_others() {
        let place = tempfile::tempdir().unwrap();
        let random = SystemRandom::new();

        assert_eq!(add(place.path(), &random).unwrap(), "p2");
        let both = load(place.path()).unwrap();
        assert_eq!(add(place.path(), &random).unwrap(), "p3");
        assert!(remove(place.path(), "p3").unwrap() && !remove(place.path(), "p3").unwrap());

        assert_eq!(load(place.path()).unwrap(), both);
        assert_ne!(both[0].1.expose_secret(), both[1].1.expose_secret());
        assert_eq!(fs::metadata(place.path().join(NAME)).unwrap().permissions().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let place = tempfile::tempdir().unwrap();
        write(place.path(), &format!("p1 = '{}'\n", "ab".repeat(32)), 0o640);

        let error = load_or_create(place.path(), &SystemRandom::new()).unwrap_err();

        assert!(error.to_string().contains("has mode 0640, so others may have read it"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named_and_no_digit_of_it_shown() {
        let place = tempfile::tempdir().unwrap();
        write(place.path(), "p1 = 'deadbeef'\nq2 = 'deadbeef'\np3 = 7\n", 0o600);

        let text = load(place.path()).unwrap_err().to_string();

        assert!(text.contains("peppers.toml:1:6: p1: expected 64 hexadecimal digits"), "{text}");
        assert!(text.contains(":2:"), "{text}");
        assert!(text.contains(":3:"), "{text}");
        assert!(!text.contains("deadbeef"), "{text}");
    }

    #[test]
    fn an_empty_file_is_no_first_start() {
        let place = tempfile::tempdir().unwrap();
        write(place.path(), "", 0o600);

        assert!(matches!(load_or_create(place.path(), &SystemRandom::new()), Err(PepperError::Malformed(_))));
    }
}
