//! What can be done to developers, apps, products, grants and credentials that are on file, and where new ones are written.

use std::path::{Path, PathBuf};

use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, RawString, Table, TableLike, value};

use crate::clock::Timestamp;
use crate::id::{AppId, CredentialId, DeveloperId, OperationId, ProductId};
use crate::registry::{
    AppStatus, CredentialStatus, DeveloperStatus, Grant, GrantStatus, Method, PathRule, ServiceSelector,
    Snapshot, Source,
};
use crate::store::registry_edit::{
    CREDENTIALS, EditError, add_table, credential_in, instant, name_of, set, set_word, table_of, tables,
    text_of, unsupported,
};
use crate::suggest;

/// Something on file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// An app.
    App(AppId),
    /// A credential of any kind.
    Credential(CredentialId),
    /// A developer.
    Developer(DeveloperId),
    /// An app's right to a product.
    Grant(AppId, ProductId),
    /// A product.
    Product(ProductId),
}

/// One change of it.
#[derive(Clone, Debug)]
pub enum Change {
    /// Write down one more app.
    AddApp {
        /// Its name.
        id: AppId,
        /// Its owner.
        developer: DeveloperId,
    },
    /// Write down one more developer.
    AddDeveloper {
        /// Its name.
        id: DeveloperId,
    },
    /// Grant an app a product.
    AddGrant {
        /// The app.
        app: AppId,
        /// The product.
        product: ProductId,
        /// How far it has come; `None` for what the product says of grants that do not say it themselves.
        status: Option<GrantStatus>,
        /// When it ends.
        expires: Option<Timestamp>,
    },
    /// Let a product cover something more.
    AddOperation {
        /// The product.
        product: ProductId,
        /// What it covers.
        operation: NewOperation,
    },
    /// Write down one more product.
    AddProduct {
        /// Its name.
        id: ProductId,
        /// The scopes that it conveys.
        scopes: Vec<String>,
    },
    /// Take it off the file.
    Remove(Target),
    /// Put another key in the place of one, which goes on until a certain instant.
    Rotate {
        /// The key so far.
        old: CredentialId,
        /// The instant from which it is refused.
        retire_at: Timestamp,
        /// The next one: `id`, `hash` and the like, which take the place of the former's.
        entries: Vec<(&'static str, String)>,
        /// When it was made.
        created: Timestamp,
        /// When it ends.
        expires: Option<Timestamp>,
    },
    /// Let it have this status: a word of its kind.
    SetStatus(Target, &'static str),
}

/// Something that a product is to cover.
#[derive(Clone, Debug)]
pub struct NewOperation {
    /// Its name within the product.
    pub id: Option<OperationId>,
    /// To which service.
    pub service: ServiceSelector,
    /// With which methods, on which paths; `None` for raw connections.
    pub request: Option<(NewMethods, PathRule)>,
}

/// With which methods.
#[derive(Clone, Debug)]
pub enum NewMethods {
    /// All.
    Any,
    /// These.
    Listed(Vec<Method>),
}

impl Target {
    /// The word for its sort.
    #[must_use]
    pub const fn sort(&self) -> &'static str {
        match self {
            Self::App(_) => "app",
            Self::Credential(_) => "credential",
            Self::Developer(_) => "developer",
            Self::Grant(..) => "grant",
            Self::Product(_) => "product",
        }
    }

    /// How it stands in `snapshot`; `None` if it is not there.
    #[must_use]
    pub fn state(&self, snapshot: &Snapshot) -> Option<String> {
        Some(match self {
            Self::App(id) => app_word(snapshot.app(id.as_str())?.status).to_owned(),
            Self::Credential(id) => {
                let credential = snapshot.credential(id.as_str())?;
                ends(credential_word(credential.status), credential.expires)
            }
            Self::Developer(id) => developer_word(snapshot.developer(id.as_str())?.status).to_owned(),
            Self::Grant(app, product) => {
                let grant = grant(snapshot, app, product)?;
                ends(grant_word(grant.status).to_owned(), grant.expires)
            }
            Self::Product(id) => {
                let product = snapshot.product(id.as_str())?;
                format!("{} operations, {} scopes", product.operations.len(), product.scopes.len())
            }
        })
    }

    fn name(&self) -> String {
        match self {
            Self::App(id) => id.to_string(),
            Self::Credential(id) => id.to_string(),
            Self::Developer(id) => id.to_string(),
            Self::Grant(app, product) => format!("{app}/{product}"),
            Self::Product(id) => id.to_string(),
        }
    }
}

impl std::fmt::Display for Target {
    /// `app:ledger`, `grant:ledger/orders-read`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.sort(), self.name())
    }
}

impl Change {
    /// What it is about.
    #[must_use]
    pub fn target(&self) -> Target {
        match self {
            Self::AddApp { id, .. } => Target::App(id.clone()),
            Self::AddDeveloper { id } => Target::Developer(id.clone()),
            Self::AddGrant { app, product, .. } => Target::Grant(app.clone(), product.clone()),
            Self::AddOperation { product, .. } => Target::Product(product.clone()),
            Self::AddProduct { id, .. } => Target::Product(id.clone()),
            Self::Remove(target) | Self::SetStatus(target, _) => target.clone(),
            Self::Rotate { old, .. } => Target::Credential(old.clone()),
        }
    }

    /// The sort and the name of what it is about.
    pub(super) fn names(&self) -> (&'static str, String) {
        let target = self.target();
        (target.sort(), target.name())
    }
}

/// The word for a status, as the registry has it.
#[must_use]
pub const fn app_word(status: AppStatus) -> &'static str {
    match status {
        AppStatus::Approved => "approved",
        AppStatus::Revoked => "revoked",
    }
}

/// The word for a status, as the registry has it.
#[must_use]
pub const fn developer_word(status: DeveloperStatus) -> &'static str {
    match status {
        DeveloperStatus::Active => "active",
        DeveloperStatus::Inactive => "inactive",
    }
}

/// The word for a status, as the registry has it.
#[must_use]
pub const fn grant_word(status: GrantStatus) -> &'static str {
    match status {
        GrantStatus::Approved => "approved",
        GrantStatus::Pending => "pending",
        GrantStatus::Revoked => "revoked",
    }
}

/// The word for a status as the registry has it, and until when it holds.
#[must_use]
pub fn credential_word(status: CredentialStatus) -> String {
    match status {
        CredentialStatus::Approved => "approved".to_owned(),
        CredentialStatus::Pending => "pending".to_owned(),
        CredentialStatus::Retiring(at) => format!("retiring at {at}"),
        CredentialStatus::Revoked => "revoked".to_owned(),
    }
}

fn ends(word: String, expires: Option<Timestamp>) -> String {
    match expires {
        Some(expires) => format!("{word}, expires {expires}"),
        None => word,
    }
}

fn grant<'s>(snapshot: &'s Snapshot, app: &AppId, product: &ProductId) -> Option<&'s Grant> {
    snapshot.app(app.as_str())?.grants.iter().find(|grant| grant.product.id == *product)
}

/// Whether `change` makes sense as things stand.
///
/// # Errors
/// What it is about is not there, or is not to be had for that.
pub(super) fn expect_possible(change: &Change, snapshot: &Snapshot) -> Result<(), EditError> {
    match change {
        Change::AddApp { developer, .. } => expect_target(&Target::Developer(developer.clone()), snapshot),
        Change::AddDeveloper { .. } | Change::AddProduct { .. } => Ok(()),
        Change::AddGrant { app, product, .. } => {
            expect_target(&Target::App(app.clone()), snapshot)?;
            expect_target(&Target::Product(product.clone()), snapshot)
        }
        Change::AddOperation { product, .. } => expect_target(&Target::Product(product.clone()), snapshot),
        Change::Remove(target) => {
            expect_target(target, snapshot)?;
            expect_unused(target, snapshot)
        }
        Change::Rotate { old, .. } => {
            let target = Target::Credential(old.clone());
            expect_target(&target, snapshot)?;
            let status = snapshot.credential(old.as_str()).map(|credential| credential.status);
            match status {
                Some(CredentialStatus::Approved) | None => Ok(()),
                Some(status) => {
                    let why = format!("is {}; only an approved key can be rotated", credential_word(status));
                    Err(EditError::Barred { what: format!("the {} `{old}`", target.sort()), why })
                }
            }
        }
        Change::SetStatus(target, word) => {
            expect_target(target, snapshot)?;
            let revoked = |id: &CredentialId| {
                snapshot.credential(id.as_str()).is_some_and(|one| one.status == CredentialStatus::Revoked)
            };
            match target {
                Target::Credential(id) if *word != "revoked" && revoked(id) => Err(EditError::Barred {
                    what: format!("the credential `{id}`"),
                    why: "is revoked, and that for good; make another one".to_owned(),
                }),
                Target::App(_)
                | Target::Credential(_)
                | Target::Developer(_)
                | Target::Grant(..)
                | Target::Product(_) => Ok(()),
            }
        }
    }
}

fn expect_target(target: &Target, snapshot: &Snapshot) -> Result<(), EditError> {
    if target.state(snapshot).is_some() {
        return Ok(());
    }
    let names: Vec<&str> = match target {
        Target::App(_) => snapshot.apps().map(|app| app.id.as_str()).collect(),
        Target::Credential(_) => snapshot.credentials().map(|one| one.id.as_str()).collect(),
        Target::Developer(_) => snapshot.developers().map(|one| one.id.as_str()).collect(),
        Target::Grant(app, _) => {
            expect_target(&Target::App(app.clone()), snapshot)?;
            Vec::new()
        }
        Target::Product(_) => snapshot.products().map(|product| product.id.as_str()).collect(),
    };
    let name = target.name();
    let guess = suggest::did_you_mean(&name, names);
    Err(EditError::Unknown { kind: target.sort(), name, guess })
}

/// Nothing goes that something else names, and no credential before it is revoked: else its use looks like that of an unknown one.
fn expect_unused(target: &Target, snapshot: &Snapshot) -> Result<(), EditError> {
    let live = |status: CredentialStatus| status != CredentialStatus::Revoked;
    let users: Vec<String> = match target {
        Target::App(id) => {
            let own = snapshot.credentials().filter(|one| one.app.id == *id && live(one.status));
            own.map(|one| format!("credential {}", one.id)).collect()
        }
        Target::Credential(id) => {
            let status = snapshot.credential(id.as_str()).map(|one| one.status);
            if status.is_some_and(live) {
                return Err(EditError::Barred {
                    what: format!("the credential `{id}`"),
                    why: "is not revoked; revoke it first".to_owned(),
                });
            }
            Vec::new()
        }
        Target::Developer(id) => {
            let own = snapshot.apps().filter(|app| app.developer.id == *id);
            own.map(|app| format!("app {}", app.id)).collect()
        }
        Target::Grant(app, product) => {
            // One that is revoked names it, too, and its name must lead somewhere.
            let names = |grants: &Vec<Grant>| grants.iter().any(|grant| grant.product.id == *product);
            let own = snapshot.credentials().filter(|one| one.app.id == *app);
            let confined = own.filter(|one| one.grants.as_ref().is_some_and(names));
            confined.map(|one| format!("credential {}, whose `grants` name it", one.id)).collect()
        }
        Target::Product(id) => {
            let granted = |app: &Grant| app.product.id == *id;
            let apps = snapshot.apps().filter(|app| app.grants.iter().any(granted));
            apps.map(|app| format!("the grant of app {}", app.id)).collect()
        }
    };
    if users.is_empty() {
        return Ok(());
    }
    let more = users.len().saturating_sub(NAMED);
    let mut named = users.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
    if more > 0 {
        named.push_str(&format!(" and {more} more"));
    }
    let (sort, name) = (target.sort(), target.name());
    Err(EditError::Barred { what: format!("the {sort} `{name}`"), why: format!("is in use by {named}") })
}

/// As many users are named.
const NAMED: usize = 10;

/// Which of `sources` something new goes into; a file that does not exist yet is put among them. `None` if it is not new.
pub(super) fn home(
    change: &Change,
    folders: &[PathBuf],
    file: Option<&Path>,
    sources: &mut Vec<Source>,
) -> Result<Option<usize>, EditError> {
    let usual = match change {
        Change::AddApp { developer, .. } => {
            if file.is_none() {
                return Ok(sources.iter().position(|source| has(source, "developer", developer.as_str())));
            }
            "apps.toml"
        }
        Change::AddDeveloper { .. } => "developers.toml",
        Change::AddProduct { .. } => "products.toml",
        Change::AddGrant { .. }
        | Change::AddOperation { .. }
        | Change::Remove(_)
        | Change::Rotate { .. }
        | Change::SetStatus(..) => return Ok(None),
    };
    let barred =
        |what: &Path, why: &str| EditError::Barred { what: what.display().to_string(), why: why.to_owned() };
    let first = folders.first().ok_or_else(|| barred(Path::new("the registry"), "has no folder"))?;
    let path = first.join(file.unwrap_or_else(|| Path::new(usual)));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if !name.ends_with(".toml") || name.starts_with('.') {
        return Err(barred(&path, "is no file that the registry is read from: its name must end in .toml"));
    }
    if !folders.iter().any(|folder| path.parent() == Some(folder)) {
        return Err(barred(&path, "does not lie in a folder of the registry"));
    }
    let known = sources.iter().position(|source| source.path == path);
    Ok(Some(known.unwrap_or_else(|| {
        sources.push(Source { path, text: String::new() });
        sources.len() - 1
    })))
}

/// Whether the file has the table of this id.
fn has(source: &Source, sort: &str, id: &str) -> bool {
    let Ok(mut document) = source.text.parse::<DocumentMut>() else { return false };
    document
        .get_mut(sort)
        .is_some_and(|item| tables(item).into_iter().any(|table| text_of(table, "id") == Some(id)))
}

/// The text of `source` after the change; `None` if what it is about is not in there.
pub(super) fn in_document(
    source: &Source,
    mut document: DocumentMut,
    change: &Change,
) -> Result<Option<String>, EditError> {
    match change {
        Change::AddApp { id, developer } => {
            let lines = format!("[[app]]\nid = \"{id}\"\ndeveloper = \"{developer}\"\n");
            return Ok(Some(appended(&source.text, &lines)));
        }
        Change::AddDeveloper { id } => {
            return Ok(Some(appended(&source.text, &format!("[[developer]]\nid = \"{id}\"\n"))));
        }
        Change::AddProduct { id, scopes } => {
            let scopes = scopes.iter().collect::<Array>();
            let scopes = if scopes.is_empty() { String::new() } else { format!("scopes = {scopes}\n") };
            return Ok(Some(appended(&source.text, &format!("[[product]]\nid = \"{id}\"\n{scopes}"))));
        }
        Change::AddGrant { app, product, status, expires } => {
            let Some(apps) = document.get_mut("app") else { return Ok(None) };
            let Some(table) = table_of(source, apps, app)? else { return Ok(None) };
            let mut entries = vec![("product", value(product.as_str()))];
            if let Some(status) = status {
                entries.push(("status", value(grant_word(*status))));
            }
            if let Some(expires) = expires.and_then(instant) {
                entries.push(("expires", expires));
            }
            add_table(table, "grant", entries).ok_or_else(|| unsupported(source, "app.grant"))?;
        }
        Change::AddOperation { product, operation } => {
            let Some(products) = document.get_mut("product") else { return Ok(None) };
            let Some(table) = product_table(source, products, product)? else { return Ok(None) };
            add_table(table, "operation", operation_entries(operation))
                .ok_or_else(|| unsupported(source, "product.operation"))?;
        }
        Change::SetStatus(target, word) => {
            if !at_target(&mut document, target, |table| {
                set_word(table, "status", word);
                if matches!(target, Target::Credential(_)) && *word != "retiring" {
                    table.remove("retire_at");
                }
            }) {
                return Ok(None);
            }
        }
        Change::Remove(target) => return remove(source, document, target),
        Change::Rotate { old, .. } => {
            let Some(apps) = document.get_mut("app") else { return Ok(None) };
            let mut owner = None;
            for app in tables(apps) {
                if credential_in(app, old, |_| ()) {
                    owner = text_of(app, "id").and_then(|id| id.parse::<AppId>().ok());
                }
            }
            let Some(owner) = owner else { return Ok(None) };
            let Some(table) = table_of(source, apps, &owner)? else { return Ok(None) };
            rotate(table, change).ok_or_else(|| unsupported(source, "app.api_key"))?;
        }
    }
    Ok(Some(document.to_string()))
}

/// `lines` at the end of `text`, with an empty line before them.
pub(super) fn appended(text: &str, lines: &str) -> String {
    let trimmed = text.trim_end_matches('\n');
    if trimmed.is_empty() { lines.to_owned() } else { format!("{trimmed}\n\n{lines}") }
}

fn product_table<'t>(
    source: &Source,
    products: &'t mut Item,
    product: &ProductId,
) -> Result<Option<&'t mut Table>, EditError> {
    let place = tables(products).iter().position(|table| text_of(&**table, "id") == Some(product.as_str()));
    let Some(place) = place else { return Ok(None) };
    let products = products.as_array_of_tables_mut().ok_or_else(|| unsupported(source, "product"))?;
    Ok(products.get_mut(place))
}

fn operation_entries(operation: &NewOperation) -> Vec<(&'static str, Item)> {
    let mut entries = Vec::new();
    if let Some(id) = &operation.id {
        entries.push(("id", value(id.as_str())));
    }
    entries.push((
        "service",
        match &operation.service {
            ServiceSelector::Any => value("*"),
            ServiceSelector::Named(service) => value(service.as_str()),
        },
    ));
    if let Some((methods, path)) = &operation.request {
        let methods = match methods {
            NewMethods::Any => Array::from_iter(["*"]),
            NewMethods::Listed(methods) => methods.iter().map(Method::as_str).collect(),
        };
        entries.push(("methods", value(methods)));
        entries.push(("path", value(path.to_string())));
    }
    entries
}

/// Does `change` to the table of `target`, if the document has it.
fn at_target(
    document: &mut DocumentMut,
    target: &Target,
    mut change: impl FnMut(&mut dyn TableLike),
) -> bool {
    let mut with_id = |sort: &str, id: &str| {
        let found = document
            .get_mut(sort)
            .and_then(|item| tables(item).into_iter().find(|table| text_of(&**table, "id") == Some(id)));
        found.map(&mut change).is_some()
    };
    match target {
        Target::App(id) => with_id("app", id.as_str()),
        Target::Developer(id) => with_id("developer", id.as_str()),
        Target::Product(id) => with_id("product", id.as_str()),
        Target::Credential(id) => document
            .get_mut("app")
            .is_some_and(|apps| tables(apps).into_iter().any(|app| credential_in(app, id, &mut change))),
        Target::Grant(id, product) => {
            let app = document.get_mut("app").and_then(|apps| {
                tables(apps).into_iter().find(|table| text_of(&**table, "id") == Some(id.as_str()))
            });
            let grant = app.and_then(|app| {
                let grants = tables(app.get_mut("grant")?);
                grants.into_iter().find(|grant| text_of(&**grant, "product") == Some(product.as_str()))
            });
            grant.map(change).is_some()
        }
    }
}

pub(super) fn remove(
    source: &Source,
    mut document: DocumentMut,
    target: &Target,
) -> Result<Option<String>, EditError> {
    let kept = match target {
        Target::App(id) => remove_from(source, document.get_mut("app"), "app", ("id", id.as_str()))?,
        Target::Developer(id) => {
            remove_from(source, document.get_mut("developer"), "developer", ("id", id.as_str()))?
        }
        Target::Product(id) => {
            remove_from(source, document.get_mut("product"), "product", ("id", id.as_str()))?
        }
        Target::Grant(app, product) => {
            let Some(apps) = document.get_mut("app") else { return Ok(None) };
            let Some(table) = table_of(source, apps, app)? else { return Ok(None) };
            remove_from(source, table.get_mut("grant"), "app.grant", ("product", product.as_str()))?
        }
        Target::Credential(id) => {
            let mut kept = None;
            for app in document.get_mut("app").map(tables).unwrap_or_default() {
                if kept.is_none() {
                    kept = remove_credential(source, app, id)?;
                }
            }
            kept
        }
    };
    let Some(kept) = kept else { return Ok(None) };
    for sort in ["app", "developer", "product"] {
        if document.get(sort).and_then(Item::as_array_of_tables).is_some_and(ArrayOfTables::is_empty) {
            document.remove(sort);
        }
    }
    let text = document.to_string();
    let text = text.trim_start_matches('\n');
    Ok(Some(if kept.is_empty() { text.to_owned() } else { format!("{kept}\n{text}") }))
}

/// Takes the table whose `key` has this value out of the array, with the comment that stands right above it. What stands further
/// above is about more than it, and is given back. `None` if there is no such table.
fn remove_from(
    source: &Source,
    item: Option<&mut Item>,
    what: &'static str,
    (key, id): (&str, &str),
) -> Result<Option<String>, EditError> {
    let Some(item) = item else { return Ok(None) };
    let Some(place) = tables(item).iter().position(|table| text_of(&**table, key) == Some(id)) else {
        return Ok(None);
    };
    remove_at(source, item, what, place).map(Some)
}

/// Takes a credential of `app` out, as [`remove_from`] does. Those behind it that are called by their place keep their names: what
/// was revoked, counted or written down under a name must not come to be about another one.
fn remove_credential(
    source: &Source,
    app: &mut dyn TableLike,
    id: &CredentialId,
) -> Result<Option<String>, EditError> {
    let app_id = text_of(app, "id").unwrap_or_default().to_owned();
    for (kind, what) in CREDENTIALS {
        let Some(item) = app.get_mut(kind) else { continue };
        let names: Vec<String> =
            (1..).zip(tables(item)).map(|(number, table)| name_of(&app_id, kind, number, table)).collect();
        let Some(place) = names.iter().position(|name| name == id.as_str()) else { continue };
        let kept = remove_at(source, item, what, place)?;
        for (table, name) in tables(item).into_iter().zip(names.into_iter().skip(1)).skip(place) {
            if !table.contains_key("id") {
                set(table, "id", value(name));
            }
        }
        return Ok(Some(kept));
    }
    Ok(None)
}

fn remove_at(
    source: &Source,
    item: &mut Item,
    what: &'static str,
    place: usize,
) -> Result<String, EditError> {
    let array = item.as_array_of_tables_mut().ok_or_else(|| unsupported(source, what))?;
    let prefix = array.get(place).and_then(|table| table.decor().prefix()).and_then(RawString::as_str);
    let above = prefix.and_then(|prefix| prefix.rfind("\n\n").and_then(|at| prefix.get(..at)));
    let above = above.map(|above| above.trim_matches('\n').to_owned()).filter(|above| !above.is_empty());
    let Some(above) = above else {
        array.remove(place);
        return Ok(String::new());
    };
    array.remove(place);
    match array.get_mut(place) {
        Some(next) => {
            let prefix = next.decor().prefix().and_then(RawString::as_str).unwrap_or_default();
            let prefix = format!("\n{above}\n{prefix}");
            next.decor_mut().set_prefix(prefix);
            Ok(String::new())
        }
        None => Ok(format!("{above}\n")),
    }
}

/// Puts the next key beside the one that retires, with all that is said of that one; `None` if they are written on one line.
fn rotate(app: &mut Table, change: &Change) -> Option<()> {
    let Change::Rotate { old, retire_at, entries, created, expires } = change else { return None };
    let retire_at = instant(*retire_at)?;
    for kind in ["api_key", "client_key", "client_secret", "signature"] {
        let Some(array) = app.get_mut(kind) else { continue };
        let Some(array) = array.as_array_of_tables_mut() else {
            let here = tables(array).iter().any(|table| text_of(&**table, "id") == Some(old.as_str()));
            if here { return None } else { continue }
        };
        let Some(former) = array.iter_mut().find(|table| text_of(&**table, "id") == Some(old.as_str()))
        else {
            continue;
        };
        let mut next = former.clone();
        set_word(former, "status", "retiring");
        set(former, "retire_at", retire_at);
        for key in ["status", "retire_at", "not_before", "expires", "created"] {
            next.remove(key);
        }
        for (key, text) in entries {
            set(&mut next, key, value(text));
        }
        set(&mut next, "created", instant(*created)?);
        if let Some(expires) = expires {
            set(&mut next, "expires", instant(*expires)?);
        }
        let indent = super::registry_edit::last_line(
            next.decor().prefix().and_then(RawString::as_str).unwrap_or_default(),
        );
        next.decor_mut().set_prefix(format!("\n{indent}"));
        // Behind the last one, wherever the former stands.
        next.set_position(None);
        array.push(next);
        return Some(());
    }
    None
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::registry;
    use crate::store::atomic_file;
    use crate::store::registry_edit::{Edit, Outcome, apply, prepare};

    const REGISTRY: &str = r#"# All that we have.

# The payments team.
[[developer]]
id = "payments-team"

# Nobody yet.
[[developer]]
id = "spare"   # for later

[[app]]
id = "ledger"               # books
developer = "payments-team"

  [[app.grant]]
  product = "orders-read"   # since May
  status = "pending"

  [[app.api_key]]
  id = "0000000000A1"       # on the batch host
  hash = "hmac-sha256:p1:5f8ce295e14e4a3b633dc981cacb54c299e62af3a15d4367049daa170c9ced14"
  expires = 2027-01-01T00:00:00Z

  [[app.certificate]]
  uri = "spiffe://postern.test/ledger"

# What is sold.
[[product]]
id = "orders-read"
"#;

    const CREDENTIALS_OF_ALL_KINDS: &str = r#"
[[app]]
id = "mail"
developer = "payments-team"
[[app.api_key]]
id = "0000000000B7"
hash = "hmac-sha256:p1:HASH"
[[app.certificate]]
uri = "spiffe://postern.test/mail"
[[app.certificate]]
uri = "spiffe://postern.test/mail-2"
[[app.client_key]]
id = "mail-client"
algorithm = "EdDSA"
public_key = '{"kty":"OKP","crv":"Ed25519","x":"JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs"}'
[[app.client_secret]]
id = "0000000000B8"
hash = "hmac-sha256:p1:HASH"
[[app.signature]]
id = "mail-signature"
algorithm = "ed25519"
public_key = '{"kty":"OKP","crv":"Ed25519","x":"JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs"}'
[[app.token]]
issuer = "https://id.test"
azp = "mail"
[[app.token]]
issuer = "https://id.test"
azp = "mail-2"
"#;

    struct World {
        folder: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            atomic_file::replace(&folder.path().join("apps.toml"), REGISTRY.as_bytes(), 0o640).unwrap();
            Self { folder }
        }

        fn folders(&self) -> [PathBuf; 1] {
            [self.folder.path().to_owned()]
        }

        fn change(&self, change: Change) -> Result<Outcome, EditError> {
            apply(&self.folders(), &Edit::Change(change)).map(|(_, outcome)| outcome)
        }

        fn refused(&self, change: Change) -> String {
            let before = self.text("apps.toml");
            let error = self.change(change).unwrap_err().to_string();
            assert_eq!(self.text("apps.toml"), before);
            error
        }

        fn text(&self, name: &str) -> String {
            fs::read_to_string(self.folder.path().join(name)).unwrap()
        }

        fn snapshot(&self) -> Snapshot {
            registry::parse(&crate::store::registry_dir::read(&self.folders()).unwrap()).unwrap()
        }

        fn state(&self, target: &Target) -> Option<String> {
            target.state(&self.snapshot())
        }
    }

    fn key() -> CredentialId {
        "0000000000A1".parse().unwrap()
    }

    fn ledger() -> AppId {
        "ledger".parse().unwrap()
    }

    fn orders() -> ProductId {
        "orders-read".parse().unwrap()
    }

    fn set(target: Target, word: &'static str) -> Change {
        Change::SetStatus(target, word)
    }

    #[test]
    fn something_new_goes_into_the_file_of_its_owner_or_one_of_its_own() {
        let world = World::new();
        let developer: DeveloperId = "new-team".parse().unwrap();

        world.change(Change::AddDeveloper { id: developer.clone() }).unwrap();
        world.change(Change::AddApp { id: "mail".parse().unwrap(), developer }).unwrap();
        world
            .change(Change::AddApp { id: "books".parse().unwrap(), developer: "spare".parse().unwrap() })
            .unwrap();
        world
            .change(Change::AddProduct { id: "mails".parse().unwrap(), scopes: vec!["mail:read".to_owned()] })
            .unwrap();

        let expected =
            "[[developer]]\nid = \"new-team\"\n\n[[app]]\nid = \"mail\"\ndeveloper = \"new-team\"\n";
        assert_eq!(world.text("developers.toml"), expected);
        assert_eq!(world.text("products.toml"), "[[product]]\nid = \"mails\"\nscopes = [\"mail:read\"]\n");
        assert_eq!(
            world.text("apps.toml"),
            format!("{REGISTRY}\n[[app]]\nid = \"books\"\ndeveloper = \"spare\"\n")
        );
    }

    #[test]
    fn a_file_can_be_named_if_it_is_one_of_the_registry() {
        let world = World::new();
        let edit = Edit::Change(Change::AddDeveloper { id: "x".parse().unwrap() });
        let prepare = |file: &str| prepare(&world.folders(), &edit, Some(Path::new(file)));

        prepare("mine.toml").unwrap().commit().unwrap();

        assert_eq!(world.text("mine.toml"), "[[developer]]\nid = \"x\"\n");
        for file in ["../mine.toml", "mine.txt", ".mine.toml", "/etc/mine.toml"] {
            assert!(matches!(prepare(file), Err(EditError::Barred { .. })), "{file}");
        }
        assert!(matches!(prepare("other.toml"), Err(EditError::NotValid(_))), "there is one of that name");
    }

    #[test]
    fn a_status_changes_and_nothing_else() {
        let world = World::new();
        let grant = Target::Grant(ledger(), orders());

        assert_eq!(world.change(set(grant.clone(), "approved")).unwrap(), Outcome::Changed);
        assert_eq!(world.text("apps.toml"), REGISTRY.replace("\"pending\"", "\"approved\""));
        assert_eq!(world.change(set(grant, "approved")).unwrap(), Outcome::Unchanged);
        world.change(set(Target::App(ledger()), "revoked")).unwrap();
        world.change(set(Target::Developer("spare".parse().unwrap()), "inactive")).unwrap();
        assert_eq!(world.state(&Target::App(ledger())).unwrap(), "revoked");
        assert!(world.text("apps.toml").contains("id = \"spare\"   # for later\nstatus = \"inactive\"\n"));
    }

    #[test]
    fn what_is_revoked_stays_revoked() {
        let world = World::new();
        world.change(set(Target::Credential(key()), "revoked")).unwrap();

        let told = world.refused(set(Target::Credential(key()), "approved"));

        assert_eq!(told, "the credential `0000000000A1` is revoked, and that for good; make another one");
    }

    #[test]
    fn what_something_names_is_not_removed() {
        let world = World::new();

        let told = world.refused(Change::Remove(Target::Developer("payments-team".parse().unwrap())));
        assert_eq!(told, "the developer `payments-team` is in use by app ledger");
        let told = world.refused(Change::Remove(Target::Product(orders())));
        assert_eq!(told, "the product `orders-read` is in use by the grant of app ledger");
        let told = world.refused(Change::Remove(Target::App(ledger())));
        assert!(told.contains("is in use by credential 0000000000A1"), "{told}");
        let told = world.refused(Change::Remove(Target::Credential(key())));
        assert!(told.contains("is not revoked; revoke it first"), "{told}");
        let told = world.refused(Change::Remove(Target::App("ledgr".parse().unwrap())));
        assert!(told.contains("there is no app called `ledgr`") && told.contains("ledger"), "{told}");
    }

    #[test]
    fn what_is_removed_takes_its_own_comment_along_and_no_other() {
        let world = World::new();

        world.change(Change::Remove(Target::Developer("spare".parse().unwrap()))).unwrap();
        let rest = REGISTRY.replace("# Nobody yet.\n[[developer]]\nid = \"spare\"   # for later\n\n", "");
        assert_eq!(world.text("apps.toml"), rest);

        world.change(Change::Remove(Target::Grant(ledger(), orders()))).unwrap();
        world.change(Change::Remove(Target::Product(orders()))).unwrap();
        let text = world.text("apps.toml");
        assert!(!text.contains("orders-read") && text.starts_with("# All that we have.\n"), "{text}");
        let snapshot = world.snapshot();
        assert_eq!(
            (snapshot.products().len(), snapshot.apps().len(), snapshot.credentials().len()),
            (0, 1, 2)
        );
    }

    #[test]
    fn the_first_table_of_a_file_leaves_the_head_of_the_file_behind() {
        let world = World::new();
        world.change(Change::AddDeveloper { id: "other".parse().unwrap() }).unwrap();
        let snapshot = world.snapshot();
        assert!(snapshot.developer("other").is_some());
        let text = "# All that we have.\n\n# One.\n[[developer]]\nid = \"one\"\n";
        atomic_file::replace(&world.folder.path().join("one.toml"), text.as_bytes(), 0o640).unwrap();

        world.change(Change::Remove(Target::Developer("one".parse().unwrap()))).unwrap();

        assert_eq!(world.text("one.toml").trim(), "# All that we have.");
    }

    #[test]
    fn grants_and_operations_are_added_below_what_they_belong_to() {
        let world = World::new();
        let product: ProductId = "mails".parse().unwrap();
        world.change(Change::AddProduct { id: product.clone(), scopes: Vec::new() }).unwrap();
        let operation = NewOperation {
            id: None,
            service: ServiceSelector::Named("mail".parse().unwrap()),
            request: Some((NewMethods::Listed(vec!["GET".parse().unwrap()]), "/mails/**".parse().unwrap())),
        };

        world.change(Change::AddOperation { product: product.clone(), operation }).unwrap();
        let expires = Some("2027-01-01T00:00:00Z".parse().unwrap());
        let status = None;
        world.change(Change::AddGrant { app: ledger(), product: product.clone(), status, expires }).unwrap();

        let expected = "[[product]]\nid = \"mails\"\n\n[[product.operation]]\nservice = \"mail\"\nmethods = [\"GET\"]\npath = \
                        \"/mails/**\"\n";
        assert_eq!(world.text("products.toml"), expected);
        let grant = world.state(&Target::Grant(ledger(), product.clone())).unwrap();
        assert_eq!(grant, "approved, expires 2027-01-01T00:00:00Z");
        let told = world.refused(Change::AddGrant { app: ledger(), product, status, expires });
        assert!(told.contains("the app has a grant to it already"), "{told}");
    }

    #[test]
    fn a_grant_to_a_product_that_wants_approval_waits_for_it_unless_it_says_otherwise() {
        let world = World::new();
        let text = "[[product]]\nid = \"wages\"\napproval = \"manual\"\n[[product]]\nid = \"mails\"\n";
        atomic_file::replace(&world.folder.path().join("products.toml"), text.as_bytes(), 0o640).unwrap();
        let state = |product: &str, status: Option<GrantStatus>| {
            let product: ProductId = product.parse().unwrap();
            let grant = Target::Grant(ledger(), product.clone());
            world.change(Change::AddGrant { app: ledger(), product, status, expires: None }).unwrap();
            let state = world.state(&grant).unwrap();
            world.change(Change::Remove(grant)).unwrap();
            state
        };

        assert_eq!(state("mails", None), "approved");
        assert_eq!(state("mails", Some(GrantStatus::Pending)), "pending");
        assert_eq!(state("wages", None), "pending");
        assert_eq!(state("wages", Some(GrantStatus::Approved)), "approved");
    }

    #[test]
    fn a_grant_that_a_credential_is_confined_to_is_not_removed() {
        let world = World::new();
        let confined = REGISTRY.replace("# on the batch host\n", "\n  grants = [\"orders-read\"]\n");
        atomic_file::replace(&world.folder.path().join("apps.toml"), confined.as_bytes(), 0o640).unwrap();

        let told = world.refused(Change::Remove(Target::Grant(ledger(), orders())));
        let why = "is in use by credential 0000000000A1, whose `grants` name it";
        assert_eq!(told, format!("the grant `ledger/orders-read` {why}"));

        world.change(set(Target::Credential(key()), "revoked")).unwrap();
        world.change(Change::Remove(Target::Credential(key()))).unwrap();
        world.change(Change::Remove(Target::Grant(ledger(), orders()))).unwrap();
    }

    fn rotation(id: &str) -> Change {
        Change::Rotate {
            old: key(),
            retire_at: "2026-06-03T00:00:00Z".parse().unwrap(),
            entries: vec![("id", id.to_owned()), ("hash", format!("hmac-sha256:p1:{}", "cd".repeat(32)))],
            created: "2026-06-01T00:00:00Z".parse().unwrap(),
            expires: Some("2027-06-01T00:00:00Z".parse().unwrap()),
        }
    }

    #[test]
    fn a_rotation_is_one_edit_after_which_both_keys_are_on_file() {
        let world = World::new();

        world.change(rotation("0000000000B2")).unwrap();

        let text = world.text("apps.toml");
        assert_eq!(text.matches("# books").count(), 1);
        let (old, new) = (Target::Credential(key()), Target::Credential("0000000000B2".parse().unwrap()));
        assert_eq!(
            world.state(&old).unwrap(),
            "retiring at 2026-06-03T00:00:00Z, expires 2027-01-01T00:00:00Z",
            "{text}"
        );
        assert_eq!(world.state(&new).unwrap(), "approved, expires 2027-06-01T00:00:00Z");
        let snapshot = world.snapshot();
        assert_eq!(snapshot.api_key("0000000000B2").unwrap().app.id, ledger());
        assert!(world.refused(rotation("0000000000C3")).contains("only an approved key can be rotated"));

        // What is revoked needs no end any more.
        world.change(set(old.clone(), "revoked")).unwrap();
        assert_eq!(world.state(&old).unwrap(), "revoked, expires 2027-01-01T00:00:00Z");
    }

    #[test]
    fn the_next_key_is_confined_and_bound_as_the_former_was() {
        let world = World::new();
        let terms = "\n  grants = [\"orders-read\"]\n  scopes = []\n  from = [\"10.0.0.0/8\"]\n";
        let confined = REGISTRY.replace("# on the batch host\n", terms);
        atomic_file::replace(&world.folder.path().join("apps.toml"), confined.as_bytes(), 0o640).unwrap();

        world.change(rotation("0000000000B2")).unwrap();

        let snapshot = world.snapshot();
        let (former, next) =
            (snapshot.api_key("0000000000A1").unwrap(), snapshot.api_key("0000000000B2").unwrap());
        assert!(next.grants.is_some() && next.scopes.is_some() && next.bindings.is_some());
        assert_eq!(
            (&next.grants, &next.scopes, &next.bindings),
            (&former.grants, &former.scopes, &former.bindings)
        );
    }

    #[test]
    fn a_rule_for_tokens_is_found_by_the_name_that_it_has_by_itself() {
        let world = World::new();
        let rule = "\n[[app.token]]\nissuer = \"https://id.test\"\nazp = \"books\"\n\n# What is sold.";
        let text = REGISTRY.replace("\n# What is sold.", rule);
        atomic_file::replace(&world.folder.path().join("apps.toml"), text.as_bytes(), 0o640).unwrap();
        let token = Target::Credential("ledger-token-1".parse().unwrap());
        assert_eq!(world.state(&token).unwrap(), "approved");

        world.change(set(token.clone(), "revoked")).unwrap();

        assert_eq!(world.state(&token).unwrap(), "revoked");
        assert_eq!(world.text("apps.toml").matches("status = \"revoked\"").count(), 1);
    }

    #[test]
    fn every_kind_of_credential_is_removed_by_its_name_and_the_others_keep_theirs() {
        let world = World::new();
        let text = format!("{REGISTRY}{}", CREDENTIALS_OF_ALL_KINDS.replace("HASH", &"ab".repeat(32)));
        atomic_file::replace(&world.folder.path().join("apps.toml"), text.as_bytes(), 0o640).unwrap();
        let names = |world: &World| -> Vec<String> {
            let snapshot = world.snapshot();
            let of_mail = snapshot.credentials().filter(|one| one.app.id.as_str() == "mail");
            let mut names: Vec<_> = of_mail.map(|one| one.id.to_string()).collect();
            names.sort();
            names
        };
        let mut left = names(&world);
        assert_eq!(left.len(), 8);

        for gone in
            ["mail-token-1", "mail-cert-1", "mail-signature", "mail-client", "0000000000B7", "0000000000B8"]
        {
            let target = Target::Credential(gone.parse().unwrap());
            world.change(set(target.clone(), "revoked")).unwrap();
            world.change(Change::Remove(target)).unwrap_or_else(|error| panic!("{gone}: {error}"));
            left.retain(|name| name != gone);
            assert_eq!(names(&world), left, "{}", world.text("apps.toml"));
        }
        assert_eq!(left, ["mail-cert-2", "mail-token-2"]);
    }

    #[test]
    fn a_retiring_credential_must_say_when() {
        let parse = |lines: &str| {
            let text = REGISTRY.replace("expires = 2027-01-01T00:00:00Z", lines);
            registry::parse(&[Source { path: "a.toml".into(), text }])
        };

        assert!(parse("status = \"retiring\"\n  retire_at = 2026-06-03T00:00:00Z").is_ok());
        let told = |lines| parse(lines).unwrap_err().iter().map(ToString::to_string).collect::<String>();
        assert!(told("status = \"retiring\"").contains("needs `retire_at`"));
        assert!(told("retire_at = 2026-06-03T00:00:00Z").contains("goes with `status = \"retiring\"`"));
    }
}
