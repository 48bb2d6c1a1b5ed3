//! Changes the registry's files the way a careful person would: one place at a time, all else left as it is.
//!
//! **Invariant:** what is written was read again first, together with all other files, and is a valid registry. So an edit
//! takes place in full or not at all, and a registry that is broken already is not edited.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use toml_edit::{ArrayOfTables, DocumentMut, Item, RawString, Table, TableLike, value};

use crate::clock::Timestamp;
use crate::id::{AppId, CredentialId};
use crate::registry::{self, SignatureAlgorithm, Snapshot, Source};
use crate::store::atomic_file::{self, AtomicError};
use crate::store::registry_change::{self, Change};
use crate::store::registry_dir::{self, RegistryReadError};
use crate::store::registry_journal;
use crate::toml_text::Problem;

/// One change.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Give an app one more API key.
    AddApiKey {
        /// Whose.
        app: AppId,
        /// The key, as it is stored.
        key: StoredApiKey,
    },
    /// Give an app one more client secret.
    AddClientSecret {
        /// Whose.
        app: AppId,
        /// The secret, as it is stored.
        key: StoredApiKey,
    },
    /// Give an app one more key for signatures.
    AddSignatureKey {
        /// Whose.
        app: AppId,
        /// The key, as it is stored.
        key: StoredSignatureKey,
    },
    /// Change what is there, or what it is granted.
    Change(Change),
    /// Declare a credential of any kind void for good.
    Revoke(CredentialId),
}

/// An API key or a client secret, as it is stored.
#[derive(Clone, Debug)]
pub struct StoredApiKey {
    /// Its public name.
    pub id: CredentialId,
    /// Its keyed hash, as the registry writes it: `hmac-sha256:p1:<64 hexadecimal digits>`.
    pub hash: String,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// The instant from which it is no longer good.
    pub expires: Option<Timestamp>,
}

/// A key for signatures, as it is stored.
#[derive(Clone, Debug)]
pub struct StoredSignatureKey {
    /// The `keyid` that signatures name.
    pub id: CredentialId,
    /// What it is for.
    pub algorithm: SignatureAlgorithm,
    /// The sealed secret as the registry writes it, `aes-256-gcm:p1:…`, or the public key as PEM or JWK.
    pub material: String,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// The instant from which it is no longer good.
    pub expires: Option<Timestamp>,
}

/// What an edit did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The registry says something else now.
    Changed,
    /// It said so already.
    Unchanged,
}

/// Why the registry was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It is not to be had for what it is now.
    #[error("{what} {why}")]
    Barred {
        /// What it is about.
        what: String,
        /// Why not, as what is said of it.
        why: String,
    },
    /// The registry was broken before.
    #[error("the registry is broken; repair it first:\n{}", Lines(.0))]
    Broken(Vec<Problem>),
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
    /// The result would not be a valid registry.
    #[error("the change would break the registry:\n{}", Lines(.0))]
    NotValid(Vec<Problem>),
    /// The registry cannot be read.
    #[error("cannot read the registry")]
    Read(#[from] RegistryReadError),
    /// It could not be written.
    #[error("cannot write the registry")]
    Replace(#[from] AtomicError),
    /// Nothing of that name.
    #[error("there is no {kind} called `{name}` in the registry{guess}")]
    Unknown {
        /// What was looked for.
        kind: &'static str,
        /// By which name.
        name: String,
        /// What was probably meant.
        guess: String,
    },
    /// What is wanted is not to be understood.
    #[error("the given files are wrong:\n{}", Lines(.0))]
    Wanted(Vec<Problem>),
    /// It is written in a way that this program does not edit.
    #[error("{}: `{what}` is written on one line; write it as [[{what}]] and try again", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key.
        what: &'static str,
    },
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

/// Carries out `edit` in the file of `folders` that it is about, and says which that is.
///
/// # Errors
/// As for [`prepare`] and [`Prepared::commit`]; nothing has changed then.
pub fn apply(folders: &[PathBuf], edit: &Edit) -> Result<(PathBuf, Outcome), EditError> {
    let prepared = prepare(folders, edit, None)?;
    let outcome = (prepared.path.clone(), prepared.outcome());
    prepared.commit()?;
    Ok(outcome)
}

/// An edit that is thought through to its end, but not carried out. Nobody else edits while it is there; who only reads sees
/// the old file or the new one.
#[derive(Debug)]
#[must_use = "nothing is changed before `commit`"]
pub struct Prepared {
    _lock: Option<File>,
    /// The file that it changes.
    pub path: PathBuf,
    /// What the file says so far; nothing if there is none yet.
    pub former: Option<String>,
    /// What it is to say.
    pub text: String,
    /// The registry as it is.
    pub before: Snapshot,
    /// The registry as it will be.
    pub after: Snapshot,
}

impl Prepared {
    /// Whether anything will be different.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        if self.former.as_deref() == Some(&*self.text) { Outcome::Unchanged } else { Outcome::Changed }
    }

    /// Carries it out.
    ///
    /// # Errors
    /// The file cannot be written; nothing has changed then.
    pub fn commit(self) -> Result<(), EditError> {
        match (self.outcome(), &self.former) {
            (Outcome::Unchanged, _) => Ok(()),
            (Outcome::Changed, Some(_)) => Ok(atomic_file::replace_alike(&self.path, self.text.as_bytes())?),
            (Outcome::Changed, None) => Ok(atomic_file::create_alike(&self.path, self.text.as_bytes())?),
        }
    }
}

/// Thinks `edit` through in the file of `folders` that it is about; something new that belongs to nobody goes into `file`, if
/// that is given.
///
/// # Errors
/// Why it cannot be; nothing has changed then.
pub fn prepare(folders: &[PathBuf], edit: &Edit, file: Option<&Path>) -> Result<Prepared, EditError> {
    let lock = lock(folders)?;
    let mut sources = registry_dir::read(folders)?;
    let before = registry::parse(&sources).map_err(EditError::Broken)?;
    expect_known(&before, edit)?;
    let home = match edit {
        Edit::Change(change) => registry_change::home(change, folders, file, &mut sources)?,
        Edit::AddApiKey { .. }
        | Edit::AddClientSecret { .. }
        | Edit::AddSignatureKey { .. }
        | Edit::Revoke(_) => None,
    };
    for number in 0..sources.len() {
        let Some(source) = sources.get_mut(number).filter(|_| home.is_none_or(|home| home == number)) else {
            continue;
        };
        let Some(text) = in_text(source, edit)? else { continue };
        let path = source.path.clone();
        let former = std::mem::replace(&mut source.text, text.clone());
        let former = Some(former).filter(|former| !former.is_empty() || path.exists());
        let after = registry::parse(&sources).map_err(EditError::NotValid)?;
        return Ok(Prepared { _lock: lock, path, former, text, before, after });
    }
    Err(unknown(edit, String::new()))
}

/// Keeps all others from editing, and finishes what somebody of them has left undone; `None` if there is nothing to edit.
pub(super) fn lock(folders: &[PathBuf]) -> Result<Option<File>, EditError> {
    let lock = folders.iter().find(|folder| folder.is_dir()).map(|folder| lock_folder(folder)).transpose()?;
    if lock.is_some() {
        registry_journal::finish(folders)?;
    }
    Ok(lock)
}

/// Locks the folder itself, so that no lock file lies among the registry's files.
fn lock_folder(folder: &Path) -> Result<File, EditError> {
    let fail = |source| EditError::Io { step: "lock", path: folder.to_owned(), source };
    let directory = File::open(folder).map_err(fail)?;
    directory.lock().map_err(fail)?;
    Ok(directory)
}

fn expect_known(snapshot: &Snapshot, edit: &Edit) -> Result<(), EditError> {
    let (known, name, names): (_, _, Vec<&str>) = match edit {
        Edit::AddApiKey { app, .. }
        | Edit::AddClientSecret { app, .. }
        | Edit::AddSignatureKey { app, .. } => (
            snapshot.app(app.as_str()).is_some(),
            app.as_str(),
            snapshot.apps().map(|app| app.id.as_str()).collect(),
        ),
        Edit::Revoke(id) => (
            snapshot.credential(id.as_str()).is_some(),
            id.as_str(),
            snapshot.credentials().map(|credential| credential.id.as_str()).collect(),
        ),
        Edit::Change(change) => return registry_change::expect_possible(change, snapshot),
    };
    if known { Ok(()) } else { Err(unknown(edit, crate::suggest::did_you_mean(name, names))) }
}

fn unknown(edit: &Edit, guess: String) -> EditError {
    let (kind, name) = match edit {
        Edit::AddApiKey { app, .. }
        | Edit::AddClientSecret { app, .. }
        | Edit::AddSignatureKey { app, .. } => ("app", app.to_string()),
        Edit::Revoke(id) => ("credential", id.to_string()),
        Edit::Change(change) => change.names(),
    };
    EditError::Unknown { kind, name, guess }
}

/// The text of `source` after the edit; `None` if what it is about is not in there.
fn in_text(source: &Source, edit: &Edit) -> Result<Option<String>, EditError> {
    // It has been read once already, so it is TOML.
    let Ok(mut document) = source.text.parse::<DocumentMut>() else { return Ok(None) };
    if let Edit::Change(change) = edit {
        return registry_change::in_document(source, document, change);
    }
    let Some(apps) = document.get_mut("app") else { return Ok(None) };
    let found = match edit {
        Edit::AddApiKey { app, key } | Edit::AddClientSecret { app, key } => {
            let (kind, whole) = if matches!(edit, Edit::AddClientSecret { .. }) {
                ("client_secret", "app.client_secret")
            } else {
                ("api_key", "app.api_key")
            };
            let entries = vec![("id", value(key.id.as_str())), ("hash", value(&key.hash))];
            match table_of(source, apps, app)? {
                Some(table) => add_credential(table, kind, entries, (key.created, key.expires))
                    .ok_or_else(|| unsupported(source, whole))?,
                None => return Ok(None),
            }
            true
        }
        Edit::AddSignatureKey { app, key } => {
            let material =
                if key.algorithm == SignatureAlgorithm::HmacSha256 { "secret" } else { "public_key" };
            let entries = vec![
                ("id", value(key.id.as_str())),
                ("algorithm", value(key.algorithm.as_str())),
                (material, value(&key.material)),
            ];
            match table_of(source, apps, app)? {
                Some(table) => add_credential(table, "signature", entries, (key.created, key.expires))
                    .ok_or_else(|| unsupported(source, "app.signature"))?,
                None => return Ok(None),
            }
            true
        }
        Edit::Change(_) => false,
        Edit::Revoke(id) => tables(apps).into_iter().any(|app| revoke(app, id)),
    };
    Ok(found.then(|| document.to_string()))
}

/// The table of `app`, if the file has it.
pub(super) fn table_of<'t>(
    source: &Source,
    apps: &'t mut Item,
    app: &AppId,
) -> Result<Option<&'t mut Table>, EditError> {
    let place = tables(apps).iter().position(|table| text_of(&**table, "id") == Some(app.as_str()));
    let Some(place) = place else { return Ok(None) };
    let tables = apps.as_array_of_tables_mut().ok_or_else(|| unsupported(source, "app"))?;
    Ok(tables.get_mut(place))
}

pub(super) fn unsupported(source: &Source, what: &'static str) -> EditError {
    EditError::Unsupported { path: source.path.clone(), what }
}

/// All tables of an array, however it is written.
pub(super) fn tables(item: &mut Item) -> Vec<&mut dyn TableLike> {
    match item {
        Item::ArrayOfTables(array) => array.iter_mut().map(|table| -> &mut dyn TableLike { table }).collect(),
        Item::Value(toml_edit::Value::Array(array)) => array
            .iter_mut()
            .filter_map(toml_edit::Value::as_inline_table_mut)
            .map(|table| -> &mut dyn TableLike { table })
            .collect(),
        Item::None | Item::Table(_) | Item::Value(_) => Vec::new(),
    }
}

pub(super) fn text_of<'t>(table: &'t (impl TableLike + ?Sized), key: &str) -> Option<&'t str> {
    table.get(key).and_then(Item::as_str)
}

/// `None` if the app's credentials are written in a way that leaves no room for another.
fn add_credential(
    app: &mut Table,
    kind: &str,
    mut entries: Vec<(&str, Item)>,
    (created, expires): (Option<Timestamp>, Option<Timestamp>),
) -> Option<()> {
    for (key, at) in [("created", created), ("expires", expires)] {
        if let Some(at) = at {
            entries.push((key, instant(at)?));
        }
    }
    add_table(app, kind, entries)
}

/// An instant as TOML has it.
pub(super) fn instant(at: Timestamp) -> Option<Item> {
    Some(value(at.to_string().parse::<toml_edit::Datetime>().ok()?))
}

/// Adds a table to the array `kind` of `owner`, indented like its neighbours; `None` if the array is written on one line.
pub(super) fn add_table(owner: &mut Table, kind: &str, entries: Vec<(&str, Item)>) -> Option<()> {
    let mut table = Table::new();
    for (key, entry) in entries {
        table.insert(key, entry);
    }
    let indent = indent_below(owner);
    table.decor_mut().set_prefix(format!("\n{indent}"));
    let keys: Vec<String> = table.iter().map(|(key, _)| key.to_owned()).collect();
    for key in keys {
        if let Some(mut key) = table.key_mut(&key) {
            key.leaf_decor_mut().set_prefix(indent.clone());
        }
    }
    owner
        .entry(kind)
        .or_insert(Item::ArrayOfTables(ArrayOfTables::new()))
        .as_array_of_tables_mut()?
        .push(table);
    Some(())
}

/// How far the tables of an app are indented, going by those that are there.
fn indent_below(app: &Table) -> String {
    let below = app.iter().filter_map(|(_, item)| item.as_array_of_tables()).flat_map(ArrayOfTables::iter);
    let prefix = below.last().and_then(|table| table.decor().prefix()).and_then(RawString::as_str);
    last_line(prefix.unwrap_or_default())
}

/// The white space behind the last line end.
pub(super) fn last_line(prefix: &str) -> String {
    let line = prefix.rsplit('\n').next().unwrap_or_default();
    if line.chars().all(|letter| matches!(letter, ' ' | '\t')) { line.to_owned() } else { String::new() }
}

/// Whether the app has this credential; it is revoked then.
fn revoke(app: &mut dyn TableLike, id: &CredentialId) -> bool {
    credential_in(app, id, |credential| set_word(credential, "status", REVOKED))
}

/// Whether the app has this credential; `change` has been done to it then.
pub(super) fn credential_in(
    app: &mut dyn TableLike,
    id: &CredentialId,
    mut change: impl FnMut(&mut dyn TableLike),
) -> bool {
    let app_id = text_of(app, "id").unwrap_or_default().to_owned();
    for (kind, _) in CREDENTIALS {
        let Some(item) = app.get_mut(kind) else { continue };
        for (number, credential) in (1..).zip(tables(item)) {
            if name_of(&app_id, kind, number, credential) == id.as_str() {
                change(credential);
                return true;
            }
        }
    }
    false
}

/// What the credential is called that is the `number`th of its kind, from 1.
pub(super) fn name_of(app: &str, kind: &str, number: usize, credential: &dyn TableLike) -> String {
    match text_of(credential, "id") {
        Some(name) => name.to_owned(),
        None => default_name(app, kind, number),
    }
}

/// What a credential is called that has no name of its own; keys have one.
pub(super) fn default_name(app: &str, kind: &str, number: usize) -> String {
    let kind = if kind == "certificate" { "cert" } else { kind };
    format!("{app}-{kind}-{number}")
}

/// The arrays of an app that hold its credentials, and what each is called in full.
pub(super) const CREDENTIALS: [(&str, &str); 6] = [
    ("api_key", "app.api_key"),
    ("certificate", "app.certificate"),
    ("client_key", "app.client_key"),
    ("client_secret", "app.client_secret"),
    ("signature", "app.signature"),
    ("token", "app.token"),
];

/// Lets `key` say `word`, and leaves all around it as it is.
pub(super) fn set_word(table: &mut dyn TableLike, key: &str, word: &str) {
    if table.get(key).and_then(Item::as_str) != Some(word) {
        set(table, key, value(word));
    }
}

/// Lets `key` have the value `item`, and leaves all around it as it is.
pub(super) fn set(table: &mut dyn TableLike, key: &str, item: Item) {
    if let Some(former) = table.get_mut(key).and_then(Item::as_value_mut) {
        let decor = former.decor().clone();
        if let Ok(next) = item.into_value() {
            *former = next;
            *former.decor_mut() = decor;
        }
        return;
    }
    let first = table.iter().next().map(|(key, _)| key.to_owned());
    let indent = first.and_then(|first| {
        let key = table.key(&first)?;
        key.leaf_decor().prefix().and_then(RawString::as_str).map(last_line)
    });
    table.insert(key, item);
    if let (Some(indent), Some(mut key)) = (indent, table.key_mut(key)) {
        key.leaf_decor_mut().set_prefix(indent);
    }
}

const REVOKED: &str = "revoked";

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const REGISTRY: &str = r#"# The payments team.
[[developer]]
id = "payments-team"

[[app]]
id = "ledger"               # books
developer = "payments-team"

  # by certificate
  [[app.certificate]]
  uri = "spiffe://postern.test/ledger"   # exact

  [[app.grant]]
  product = "orders-read"

[[app]]
id = "mail"
developer = "payments-team"

[[app.api_key]]
id = "0000000000A1"
hash = "hmac-sha256:p1:5f8ce295e14e4a3b633dc981cacb54c299e62af3a15d4367049daa170c9ced14"
status = "approved"  # by Ann

[[product]]   # last
id = "orders-read"
"#;

    struct World {
        folder: tempfile::TempDir,
    }

    impl World {
        fn with(text: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            atomic_file::replace(&folder.path().join("apps.toml"), text.as_bytes(), 0o640).unwrap();
            atomic_file::replace(&folder.path().join("more.toml"), b"[[developer]]\nid = 'x'\n", 0o644)
                .unwrap();
            Self { folder }
        }

        fn apply(&self, edit: &Edit) -> Result<Outcome, EditError> {
            apply(&[self.folder.path().to_owned()], edit).map(|(_, outcome)| outcome)
        }

        fn text(&self) -> String {
            fs::read_to_string(self.folder.path().join("apps.toml")).unwrap()
        }
    }

    fn key(app: &str, id: &str) -> Edit {
        let hash = format!("hmac-sha256:p1:{}", "ab".repeat(32));
        let expires = Some("2027-01-01T00:00:00Z".parse().unwrap());
        let key = StoredApiKey { id: id.parse().unwrap(), hash, created: None, expires };
        Edit::AddApiKey { app: app.parse().unwrap(), key }
    }

    /// The lines that are only in the second text; panics if the first has any that the second lacks.
    fn added(before: &str, after: &str) -> Vec<String> {
        let mut rest = before.lines().peekable();
        let new = after.lines().filter(|line| rest.next_if(|old| old == line).is_none());
        let new = new.map(str::to_owned).collect();
        assert_eq!(rest.next(), None, "{after}");
        new
    }

    #[test]
    fn a_key_is_added_to_its_app_and_nothing_else_changes() {
        let world = World::with(REGISTRY);

        assert_eq!(world.apply(&key("ledger", "0000000000B2")).unwrap(), Outcome::Changed);

        let hash = format!("  hash = \"hmac-sha256:p1:{}\"", "ab".repeat(32));
        assert_eq!(
            added(REGISTRY, &world.text()),
            ["  [[app.api_key]]", "  id = \"0000000000B2\"", &hash, "  expires = 2027-01-01T00:00:00Z", ""]
        );
        assert!(world.text().find("B2").unwrap() < world.text().find("id = \"mail\"").unwrap());
    }

    #[test]
    fn a_signature_key_is_added_as_it_is_written_and_can_be_revoked() {
        let world = World::with(REGISTRY);
        let pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=\n\
                   -----END PUBLIC KEY-----\n";
        let key = StoredSignatureKey {
            id: "0000000000B2".parse().unwrap(),
            algorithm: SignatureAlgorithm::Ed25519,
            material: pem.to_owned(),
            created: None,
            expires: None,
        };

        world.apply(&Edit::AddSignatureKey { app: "mail".parse().unwrap(), key }).unwrap();
        world.apply(&Edit::Revoke("0000000000B2".parse().unwrap())).unwrap();

        let text = world.text();
        let snapshot = registry::parse(&[Source { path: "x".into(), text: text.clone() }]).unwrap();
        let credential = snapshot.signature_key("0000000000B2").unwrap();
        assert_eq!(
            (credential.app.id.as_str(), credential.status),
            ("mail", registry::CredentialStatus::Revoked)
        );
        assert!(added(REGISTRY, &text).contains(&"[[app.signature]]".to_owned()), "{text}");
    }

    #[test]
    fn a_second_key_goes_behind_the_first() {
        let world = World::with(REGISTRY);

        world.apply(&key("mail", "0000000000B2")).unwrap();

        let text = world.text();
        assert_eq!(added(REGISTRY, &text).len(), 5);
        let at = |word: &str| text.find(word).unwrap();
        assert!(at("0000000000A1") < at("0000000000B2") && at("0000000000B2") < at("[[product]]"));
        registry::parse(&[Source { path: "x".into(), text }]).unwrap();
    }

    #[test]
    fn a_credential_is_revoked_once_and_its_comment_stays() {
        let world = World::with(REGISTRY);
        let revoke = Edit::Revoke("0000000000A1".parse().unwrap());

        assert_eq!(world.apply(&revoke).unwrap(), Outcome::Changed);
        assert_eq!(world.apply(&revoke).unwrap(), Outcome::Unchanged);

        let expected = REGISTRY.replace("\"approved\"  # by Ann", "\"revoked\"  # by Ann");
        assert_eq!(world.text(), expected);
    }

    #[test]
    fn a_certificate_without_a_name_is_revoked_by_its_default_one() {
        let world = World::with(REGISTRY);

        world.apply(&Edit::Revoke("ledger-cert-1".parse().unwrap())).unwrap();

        assert_eq!(added(REGISTRY, &world.text()), ["  status = \"revoked\""]);
    }

    #[test]
    fn tables_on_one_line_can_be_revoked_but_not_extended() {
        let inline = "developer = [{ id = 'd' }]\napp = [{ id = 'a', developer = 'd', certificate = [{ uri = \
                      'spiffe://td/a' }] }]\n";
        let world = World::with(inline);

        let error = world.apply(&key("a", "0000000000B2")).unwrap_err();
        assert!(error.to_string().contains("`app` is written on one line"), "{error}");
        assert_eq!(world.apply(&Edit::Revoke("a-cert-1".parse().unwrap())).unwrap(), Outcome::Changed);

        assert!(world.text().contains("status = \"revoked\""));
    }

    #[test]
    fn what_is_not_there_is_named_with_what_was_meant() {
        let world = World::with(REGISTRY);

        let error = world.apply(&key("legder", "0000000000B2")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no app called `legder` in the registry, did you mean `ledger`?"
        );
        assert!(world.apply(&Edit::Revoke("nobody".parse().unwrap())).is_err());
        assert_eq!(world.text(), REGISTRY);
    }

    #[test]
    fn a_change_that_would_break_the_registry_is_not_made() {
        let world = World::with(REGISTRY);

        let error = world.apply(&key("ledger", "0000000000A1")).unwrap_err();

        assert!(matches!(error, EditError::NotValid(_)), "{error}");
        assert_eq!(world.text(), REGISTRY);
    }

    #[test]
    fn a_broken_registry_is_not_edited() {
        let broken = format!("{REGISTRY}\n[[nonsense]]\n");
        let world = World::with(&broken);

        let error = world.apply(&key("ledger", "0000000000B2")).unwrap_err();

        assert!(matches!(error, EditError::Broken(_)), "{error}");
        assert_eq!(world.text(), broken);
    }

    #[test]
    fn edits_at_the_same_time_all_take_place() {
        let world = World::with(REGISTRY);

        std::thread::scope(|scope| {
            for number in 0..8 {
                let edit = key("ledger", &format!("00000000000{number}"));
                let world = &world;
                scope.spawn(move || world.apply(&edit).unwrap());
            }
        });

        assert_eq!(added(REGISTRY, &world.text()).len(), 8 * 5);
        assert_eq!(fs::read_dir(world.folder.path()).unwrap().count(), 2);
    }
}
