//! Brings the registry to a wanted state: what has to be created, changed and deleted for it, thing by thing and field by field.
//!
//! The wanted files speak for the developers, apps and products that are in them, and for no others. What they do not say of such a
//! thing is taken away from it, but for what people and agents do to it in between: a `status` that they leave open stays as it
//! is, and so do keys and secrets that they do not name. Nobody gets a key back that was revoked, and nobody loses one.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value as Plain;
use toml_edit::{DocumentMut, Item, Table, TableLike, value};

use crate::registry::{self, Snapshot, Source};
use crate::store::registry_change::{self, Target, appended};
use crate::store::registry_dir;
use crate::store::registry_edit::{
    self, CREDENTIALS, EditError, add_table, name_of, set, tables, text_of, unsupported,
};
use crate::store::registry_journal::{self, FileChange};
use crate::toml_text::{Document, Place, Problem, Value};

/// Whether what the wanted files do not have is deleted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Prune {
    /// It is, in those files of the registry that are called as wanted ones are.
    Delete,
    /// It stays.
    Keep,
}

/// What is to become of a developer, an app or a product.
#[derive(Clone, Debug, Serialize)]
pub struct Planned {
    /// What is done.
    pub action: Action,
    /// To what.
    #[serde(serialize_with = "shown")]
    pub target: Target,
    /// In which file.
    pub file: PathBuf,
    /// What differs.
    pub fields: Vec<Field>,
}

/// What is done to a thing.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is changed where it stands.
    Change,
    /// It is written down.
    Create,
    /// It is taken off the file.
    Delete,
}

/// Something that is said of a thing, now and then. Hashes and sealed secrets are not shown.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Field {
    /// Where, as `quota.limit` or `grant orders`.
    pub key: String,
    /// What is said so far, as TOML.
    pub before: Option<String>,
    /// What will be.
    pub after: Option<String>,
}

fn shown<S: serde::Serializer>(target: &Target, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(target)
}

/// All that has to be done, thought through to its end. Nobody else edits while it is there.
#[derive(Debug)]
#[must_use = "nothing is changed before `commit`"]
pub struct PreparedPlan {
    _lock: Option<File>,
    folders: Vec<PathBuf>,
    /// What has to be done; nothing if all is as it is wanted.
    pub changes: Vec<Planned>,
    /// The files that change.
    pub files: Vec<FileChange>,
    /// The registry as it is.
    pub before: Snapshot,
    /// The registry as it will be.
    pub after: Snapshot,
}

impl PreparedPlan {
    /// Carries it out, all of it in one step.
    ///
    /// # Errors
    /// A file cannot be written; the message says so, and readers see all of the change or nothing of it.
    pub fn commit(self) -> Result<(), EditError> {
        registry_journal::write(&self.folders, &self.files)
    }
}

/// Thinks through what has to be done for the registry in `folders` to be as `wanted`. Something new goes into the file of the
/// first folder that is called as the wanted one is.
///
/// # Errors
/// Why it cannot be; nothing has changed then.
pub fn prepare(folders: &[PathBuf], wanted: &[Source], prune: Prune) -> Result<PreparedPlan, EditError> {
    let lock = registry_edit::lock(folders)?;
    let things = read(wanted)?;
    let sources = registry_dir::read(folders)?;
    let before = registry::parse(&sources).map_err(EditError::Broken)?;
    let mut texts: Vec<Text> = sources.into_iter().map(Text::from).collect();
    let mut changes = Vec::new();
    if prune == Prune::Delete {
        let named = |path: &Path| wanted.iter().any(|source| source.path.file_name() == path.file_name());
        for text in texts.iter_mut().filter(|text| named(&text.source.path)) {
            delete_others(text, &things, &mut changes)?;
        }
    }
    for text in &mut texts {
        change_present(text, &things, &mut changes)?;
    }
    for thing in &things {
        if texts.iter().all(|text| !text.has(thing.sort, &thing.id)) {
            create(thing, folders, &mut texts, &mut changes)?;
        }
    }
    let sources: Vec<Source> = texts.iter().map(|text| text.source.clone()).collect();
    let after = registry::parse(&sources).map_err(EditError::NotValid)?;
    let files = texts.into_iter().filter_map(Text::into_change).collect();
    Ok(PreparedPlan { _lock: lock, folders: folders.to_vec(), changes, files, before, after })
}

/// A developer, an app or a product, as it is wanted.
struct Thing<'w> {
    sort: &'static str,
    id: String,
    table: Table,
    /// Its text alone, with the comment above it.
    text: String,
    source: &'w Source,
}

/// A file of the registry while it is thought through.
struct Text {
    source: Source,
    former: Option<String>,
}

impl From<Source> for Text {
    fn from(source: Source) -> Self {
        Self { former: Some(source.text.clone()), source }
    }
}

impl Text {
    fn has(&self, sort: &str, id: &str) -> bool {
        let Ok(document) = self.source.text.parse::<DocumentMut>() else { return false };
        let own = document.get(sort).map(|item| elements(Some(item))).unwrap_or_default();
        own.iter().any(|table| text_of(table, "id") == Some(id))
    }

    fn into_change(self) -> Option<FileChange> {
        let Self { source: Source { path, text }, former } = self;
        (former.as_ref() != Some(&text)).then_some(FileChange { path, former, text })
    }
}

/// The sorts of things, and what else the registry calls them.
const SORTS: [&str; 3] = ["developer", "product", "app"];

fn target(sort: &str, id: &str) -> Option<Target> {
    Some(match sort {
        "app" => Target::App(id.parse().ok()?),
        "developer" => Target::Developer(id.parse().ok()?),
        _ => Target::Product(id.parse().ok()?),
    })
}

/// All things of the wanted files; whether they are right otherwise shows when they are read in their place.
fn read(wanted: &[Source]) -> Result<Vec<Thing<'_>>, EditError> {
    let mut problems: Vec<Problem> = Vec::new();
    let mut things: Vec<Thing<'_>> = Vec::new();
    for source in wanted {
        let document = match Document::parse(&source.path, &source.text) {
            Ok(document) => document,
            Err(found) => {
                problems.extend(found);
                continue;
            }
        };
        let mut own = Vec::new();
        let mut root = document.root();
        for sort in SORTS {
            for (number, mut table) in root.tables(sort).into_iter().enumerate() {
                let place = table.place();
                if let Some(id) = table.required("id", Value::text) {
                    expect_new(&things, &own, (sort, id), &place);
                    own.push((sort, number, id.to_owned()));
                }
            }
        }
        root.finish();
        problems.extend(document.into_problems());
        let Ok(document) = source.text.parse::<DocumentMut>() else { continue };
        let begin = things.len();
        for (sort, number, _) in own {
            things.extend(thing(source, &document, (sort, number))?);
        }
        // What is new is written down in the order in which it is given.
        things.get_mut(begin..).unwrap_or_default().sort_by_key(|thing| thing.table.position());
    }
    if problems.is_empty() { Ok(things) } else { Err(EditError::Wanted(problems)) }
}

fn expect_new(
    things: &[Thing<'_>],
    own: &[(&'static str, usize, String)],
    (sort, id): (&str, &str),
    place: &Place<'_>,
) {
    if let Some(other) = things.iter().find(|thing| (thing.sort, thing.id.as_str()) == (sort, id)) {
        place.problem(format!("the {sort} `{id}` stands in {}, too", other.source.path.display()));
    } else if own.iter().any(|(other, _, name)| (*other, name.as_str()) == (sort, id)) {
        place.problem(format!("the {sort} `{id}` stands here twice"));
    } else if target(sort, id).is_none() {
        place.problem(format!("{id:?} is no name for the {sort}"));
    }
}

fn thing<'w>(
    source: &'w Source,
    document: &DocumentMut,
    (sort, number): (&'static str, usize),
) -> Result<Option<Thing<'w>>, EditError> {
    let array = document.get(sort).and_then(Item::as_array_of_tables);
    let table = array.ok_or_else(|| unsupported(source, sort))?.get(number).cloned();
    let mut alone = document.clone();
    alone.set_trailing("");
    SORTS.into_iter().filter(|other| *other != sort).for_each(|other| drop(alone.remove(other)));
    if let Some(array) = alone.get_mut(sort).and_then(Item::as_array_of_tables_mut) {
        for other in (0..array.len()).rev().filter(|other| *other != number) {
            array.remove(other);
        }
    }
    let text = alone.to_string().trim_start_matches('\n').to_owned();
    let id = table.as_ref().and_then(|table| text_of(table, "id")).map(str::to_owned);
    Ok(table.zip(id).map(|(table, id)| Thing { sort, id, table, text, source }))
}

/// Takes out of a file what is not wanted.
fn delete_others(text: &mut Text, things: &[Thing<'_>], changes: &mut Vec<Planned>) -> Result<(), EditError> {
    let Ok(document) = text.source.text.parse::<DocumentMut>() else { return Ok(()) };
    // Apps first: they name the others.
    for sort in SORTS.into_iter().rev() {
        for table in elements(document.get(sort)) {
            let Some(id) = text_of(&table, "id") else { continue };
            if things.iter().any(|thing| (thing.sort, thing.id.as_str()) == (sort, id)) {
                continue;
            }
            let (Some(target), Ok(document)) = (target(sort, id), text.source.text.parse()) else { continue };
            if let Some(next) = registry_change::remove(&text.source, document, &target)? {
                text.source.text = next;
                let fields = described(&text.source, sort, &table)?.into_iter();
                let fields = fields
                    .map(|Field { key, before, after }| Field { key, before: after, after: before })
                    .collect();
                let file = text.source.path.clone();
                changes.push(Planned { action: Action::Delete, target, file, fields });
            }
        }
    }
    Ok(())
}

/// Changes the things in a file that are wanted otherwise.
fn change_present(
    text: &mut Text,
    things: &[Thing<'_>],
    changes: &mut Vec<Planned>,
) -> Result<(), EditError> {
    let Ok(mut document) = text.source.text.parse::<DocumentMut>() else { return Ok(()) };
    let mut changed = false;
    for thing in things {
        let Some(item) = document.get_mut(thing.sort) else { continue };
        let place = tables(item).iter().position(|table| text_of(&**table, "id") == Some(&thing.id));
        let Some(place) = place else { continue };
        let array = item.as_array_of_tables_mut();
        let table = array
            .and_then(|array| array.get_mut(place))
            .ok_or_else(|| unsupported(&text.source, thing.sort))?;
        let fields = mend_thing(&text.source, thing.sort, table, &thing.table)?;
        if let (false, Some(target)) = (fields.is_empty(), target(thing.sort, &thing.id)) {
            changed = true;
            let file = text.source.path.clone();
            changes.push(Planned { action: Action::Change, target, file, fields });
        }
    }
    if changed {
        text.source.text = document.to_string();
    }
    Ok(())
}

/// Writes something new down.
fn create(
    thing: &Thing<'_>,
    folders: &[PathBuf],
    texts: &mut Vec<Text>,
    changes: &mut Vec<Planned>,
) -> Result<(), EditError> {
    let barred =
        |why: &str| EditError::Barred { what: thing.source.path.display().to_string(), why: why.to_owned() };
    let first = folders.first().ok_or_else(|| barred("cannot be applied: the registry has no folder"))?;
    let name = thing.source.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !name.ends_with(".toml") || name.starts_with('.') {
        return Err(barred("is no name for a file of the registry, which ends in .toml"));
    }
    let path = first.join(name);
    let fields = described(thing.source, thing.sort, &thing.table)?;
    match texts.iter_mut().find(|text| text.source.path == path) {
        Some(text) => text.source.text = appended(&text.source.text, &thing.text),
        None => texts.push(Text {
            source: Source { path: path.clone(), text: appended("", &thing.text) },
            former: None,
        }),
    }
    let target = target(thing.sort, &thing.id);
    changes.extend(target.map(|target| Planned { action: Action::Create, target, file: path, fields }));
    Ok(())
}

/// Everything that is said of a thing.
fn described(source: &Source, sort: &str, table: &Table) -> Result<Vec<Field>, EditError> {
    let mut blank = Table::new();
    if let Some(id) = text_of(table, "id") {
        blank.insert("id", value(id));
    }
    mend_thing(source, sort, &mut blank, table)
}

/// Lets `current` say what `wanted` says, and tells what that changes.
fn mend_thing(
    source: &Source,
    sort: &str,
    current: &mut Table,
    wanted: &Table,
) -> Result<Vec<Field>, EditError> {
    let mut fields = Vec::new();
    let lists: &[List] = match sort {
        "app" => &APP_LISTS,
        "product" => &PRODUCT_LISTS,
        _ => &[],
    };
    mend(current, wanted, ("", lists), &mut fields);
    for list in lists {
        mend_list(source, current, wanted, *list, &mut fields)?;
    }
    Ok(fields)
}

/// Tables of a thing that are told apart by name.
#[derive(Clone, Copy)]
struct List {
    kind: &'static str,
    /// What it is called in full.
    whole: &'static str,
    /// Whether those that the wanted thing does not name are taken away.
    others: Others,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Others {
    Keep,
    TakeAway,
}

/// Keys and secrets are made by commands and agents in between, and kept.
const APP_LISTS: [List; 7] = [
    List { kind: "grant", whole: "app.grant", others: Others::TakeAway },
    List { kind: "certificate", whole: "app.certificate", others: Others::TakeAway },
    List { kind: "token", whole: "app.token", others: Others::TakeAway },
    List { kind: "api_key", whole: "app.api_key", others: Others::Keep },
    List { kind: "client_key", whole: "app.client_key", others: Others::Keep },
    List { kind: "client_secret", whole: "app.client_secret", others: Others::Keep },
    List { kind: "signature", whole: "app.signature", others: Others::Keep },
];

const PRODUCT_LISTS: [List; 1] =
    [List { kind: "operation", whole: "product.operation", others: Others::TakeAway }];

/// What stays if it is not said: what was done in between, and names.
const LEFT_OPEN: [&str; 3] = ["created", "id", "status"];

/// Lets one table say what another says, but for the lists.
fn mend(
    current: &mut dyn TableLike,
    wanted: &dyn TableLike,
    (trail, lists): (&str, &[List]),
    told: &mut Vec<Field>,
) {
    let is_list = |key: &str| lists.iter().any(|list| list.kind == key);
    for (key, want) in wanted.iter().filter(|(key, _)| !is_list(key)) {
        let name = format!("{trail}{key}");
        let Some(have) = current.get_mut(key) else {
            told.push(Field { key: name, before: None, after: Some(text(key, want)) });
            set(current, key, placeless(want));
            continue;
        };
        if plain(have) == plain(want) {
            continue;
        }
        if let (Some(have), Some(want)) = (have.as_table_like_mut(), want.as_table_like()) {
            mend(have, want, (&format!("{name}."), &[]), told);
            continue;
        }
        told.push(Field { key: name, before: Some(text(key, have)), after: Some(text(key, want)) });
        if have.is_value() {
            set(current, key, placeless(want));
        } else {
            current.insert(key, placeless(want));
        }
    }
    let states_status = wanted.contains_key("status");
    let stays = |key: &str| {
        wanted.contains_key(key)
            || is_list(key)
            || LEFT_OPEN.contains(&key)
            || (key == "retire_at" && !states_status)
    };
    let others: Vec<String> =
        current.iter().map(|(key, _)| key.to_owned()).filter(|key| !stays(key)).collect();
    for key in others {
        if let Some(item) = current.remove(&key) {
            let before = Some(text(&key, &item));
            told.push(Field { key: format!("{trail}{key}"), before, after: None });
        }
    }
}

/// Lets a list have the wanted elements, each as it is wanted, in their order.
fn mend_list(
    source: &Source,
    current: &mut Table,
    wanted: &Table,
    list: List,
    told: &mut Vec<Field>,
) -> Result<(), EditError> {
    let List { kind, whole, others } = list;
    let app = text_of(wanted, "id").unwrap_or_default().to_owned();
    let is_credential = CREDENTIALS.iter().any(|(credential, _)| *credential == kind);
    let wanted = elements(wanted.get(kind));
    let mut have = elements(current.get(kind));
    let wanted_names = names(&app, kind, &wanted);
    let mut have_names = names(&app, kind, &have);
    let mut fields = Vec::new();
    for (name, table) in have_names.iter().zip(&mut have) {
        let Some(want) = place_of(&wanted_names, name).and_then(|place| wanted.get(place)) else { continue };
        let revoked = Some("revoked");
        if is_credential && text_of(table, "status") == revoked {
            let status = want.get("status").and_then(Item::as_str);
            if status.is_some() && status != revoked {
                return Err(EditError::Barred {
                    what: format!("the credential `{name}`"),
                    why: "is revoked, and that for good; make another one".to_owned(),
                });
            }
        }
        mend(table, want, (&format!("{kind} {name}: "), &[]), &mut fields);
    }
    if others == Others::TakeAway {
        for place in (0..have.len()).rev() {
            let Some(name) = have_names.get(place).filter(|name| !wanted_names.contains(name)) else {
                continue;
            };
            let key = format!("{kind} {name}");
            let gone = have.remove(place);
            fields.push(Field { key, before: Some(text(kind, &Item::Table(gone))), after: None });
            have_names.remove(place);
        }
    }
    let mut added = Vec::new();
    for (name, want) in wanted_names.iter().zip(&wanted).filter(|(name, _)| !have_names.contains(name)) {
        let after = Some(text(kind, &Item::Table(want.clone())));
        fields.push(Field { key: format!("{kind} {name}"), before: None, after });
        added.push((name.clone(), want.clone()));
    }
    let all_names: Vec<String> =
        have_names.iter().chain(added.iter().map(|(name, _)| name)).cloned().collect();
    let in_order = is_credential || in_wanted_order(&all_names, &wanted_names);
    if fields.is_empty() && in_order {
        return Ok(());
    }
    if !in_order {
        let told_names = |names: &[String]| Some(names.join(", "));
        let (before, after) = (told_names(&all_names), told_names(&wanted_names));
        fields.push(Field { key: format!("{kind} order"), before, after });
    }
    told.extend(fields);
    let elements = Elements { have, names: have_names, added, in_order, wanted_names };
    put(source, current, (kind, whole), elements)?;
    if is_credential {
        keep_names(&app, kind, current, &all_names);
    }
    Ok(())
}

/// Lets credentials be called what they are, wherever they stand: what was revoked, counted or written down under a name must not
/// come to be about another one.
fn keep_names(app: &str, kind: &str, owner: &mut Table, names: &[String]) {
    let Some(item) = owner.get_mut(kind) else { return };
    for ((number, table), name) in (1..).zip(tables(item)).zip(names) {
        if name_of(app, kind, number, table) != *name {
            set(table, "id", value(name));
        }
    }
}

/// What a list is to consist of.
struct Elements {
    have: Vec<Table>,
    names: Vec<String>,
    added: Vec<(String, Table)>,
    in_order: bool,
    wanted_names: Vec<String>,
}

/// The order counts: of several grants or operations that cover a request, the first is charged.
fn in_wanted_order(names: &[String], wanted: &[String]) -> bool {
    names.iter().filter_map(|name| place_of(wanted, name)).is_sorted()
}

fn place_of(names: &[String], name: &str) -> Option<usize> {
    names.iter().position(|one| one == name)
}

/// Puts the elements into the list.
fn put(
    source: &Source,
    owner: &mut Table,
    (kind, whole): (&'static str, &'static str),
    elements: Elements,
) -> Result<(), EditError> {
    let Elements { have, mut names, added, in_order, wanted_names } = elements;
    match owner.get_mut(kind) {
        None => {}
        Some(Item::ArrayOfTables(array)) => {
            array.clear();
            have.into_iter().for_each(|table| array.push(table));
        }
        Some(_) => return Err(unsupported(source, whole)),
    }
    for (name, table) in added {
        let entries: Vec<(String, Item)> =
            table.iter().map(|(key, item)| (key.to_owned(), placeless(item))).collect();
        let entries = entries.iter().map(|(key, item)| (key.as_str(), item.clone())).collect();
        add_table(owner, kind, entries).ok_or_else(|| unsupported(source, whole))?;
        names.push(name);
    }
    let Some(array) = owner.get_mut(kind).and_then(Item::as_array_of_tables_mut) else { return Ok(()) };
    if !in_order {
        let mut named: Vec<(String, Table)> = names.into_iter().zip(array.iter().cloned()).collect();
        named.sort_by_key(|(name, _)| place_of(&wanted_names, name).unwrap_or(usize::MAX));
        array.clear();
        for (_, mut table) in named {
            forget_place(&mut table);
            array.push(table);
        }
    }
    if array.is_empty() {
        owner.remove(kind);
    }
    Ok(())
}

/// The elements of a list, however it is written.
fn elements(item: Option<&Item>) -> Vec<Table> {
    match item {
        Some(Item::ArrayOfTables(array)) => array.iter().cloned().collect(),
        Some(Item::Value(toml_edit::Value::Array(array))) => {
            let inline = array.iter().filter_map(toml_edit::Value::as_inline_table);
            inline.map(|table| table.clone().into_table()).collect()
        }
        Some(Item::None | Item::Table(_) | Item::Value(_)) | None => Vec::new(),
    }
}

/// What the elements are called: a grant after its product, an operation by its name, or else by service and path.
fn names(app: &str, kind: &str, elements: &[Table]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (number, table) in (1..).zip(elements) {
        let said = |key: &str| text_of(table, key).unwrap_or_default().to_owned();
        let name = match kind {
            "grant" => said("product"),
            "operation" if table.contains_key("id") => said("id"),
            "operation" => format!("{} {}", said("service"), said("path")).trim_end().to_owned(),
            _ => name_of(app, kind, number, table),
        };
        let same = names.iter().filter(|other| **other == name).count();
        names.push(if same > 0 { format!("{name} #{}", same + 1) } else { name });
    }
    names
}

/// A value for comparison: not how it is written, but what it says.
fn plain(item: &Item) -> Plain {
    if let Some(table) = item.as_table_like() {
        return table.iter().map(|(key, item)| (key.to_owned(), plain(item))).collect();
    }
    if let Item::ArrayOfTables(array) = item {
        return array.iter().map(|table| plain(&Item::Table(table.clone()))).collect();
    }
    match item.as_value() {
        Some(toml_edit::Value::Array(array)) => {
            array.iter().map(|one| plain(&Item::Value(one.clone()))).collect()
        }
        Some(toml_edit::Value::Boolean(truth)) => Plain::from(*truth.value()),
        // An instant may be written with and without quotation marks.
        Some(toml_edit::Value::Datetime(instant)) => Plain::from(instant.value().to_string()),
        Some(toml_edit::Value::Float(number)) => Plain::from(*number.value()),
        Some(toml_edit::Value::Integer(number)) => Plain::from(*number.value()),
        Some(toml_edit::Value::String(text)) => Plain::from(text.value().as_str()),
        Some(toml_edit::Value::InlineTable(_)) | None => Plain::Null,
    }
}

/// A value for somebody who reads it; what is derived from a secret is not shown.
fn text(key: &str, item: &Item) -> String {
    if SECRETS.contains(&key) {
        return "(not shown)".to_owned();
    }
    if let Some(table) = item.as_table_like() {
        let entries = table.iter().map(|(key, item)| format!("{key} = {}", text(key, item)));
        return format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "));
    }
    if let Item::ArrayOfTables(array) = item {
        let tables = array.iter().map(|table| text(key, &Item::Table(table.clone())));
        return format!("[{}]", tables.collect::<Vec<_>>().join(", "));
    }
    item.as_value().map(|value| value.clone().decorated("", "").to_string()).unwrap_or_default()
}

const SECRETS: [&str; 2] = ["hash", "secret"];

/// An item that says the same, and has no place in the file that it comes from.
fn placeless(item: &Item) -> Item {
    let mut item = item.clone();
    match &mut item {
        Item::ArrayOfTables(array) => array.iter_mut().for_each(forget_place),
        Item::Table(table) => forget_place(table),
        Item::None | Item::Value(_) => {}
    }
    item
}

fn forget_place(table: &mut Table) {
    table.set_position(None);
    for (_, item) in table.iter_mut() {
        match item {
            Item::ArrayOfTables(array) => array.iter_mut().for_each(forget_place),
            Item::Table(table) => forget_place(table),
            Item::None | Item::Value(_) => {}
        }
    }
}
