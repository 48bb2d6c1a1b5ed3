//! From the text of the registry's files to a snapshot, or to everything that is wrong with them.
//!
//! **Invariant:** either every file is understood in full, or nothing is taken. No problem ever quotes a key's hash.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest;

use crate::id::{AppId, CredentialId, DeveloperId, ProductId};
use crate::limit::{Limits, Quota};
use crate::registry::limits;
use crate::registry::read::{self, CredentialDraft};
use crate::registry::shelf::{References, Shelf};
use crate::registry::{
    App, AppStatus, Conflict, Credential, Definitions, Developer, DeveloperStatus, Grant, GrantStatus,
    Operation, Product, Snapshot,
};
use crate::toml_text::{Document, Place, Problem, TableReader};

/// One file of the registry.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where it was read from.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

/// Reads all files of the registry together.
///
/// # Errors
/// Every problem in every file, by file and place.
pub fn parse(sources: &[Source]) -> Result<Snapshot, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut documents = Vec::new();
    for source in sources {
        match Document::parse(&source.path, &source.text) {
            Ok(document) => documents.push(document),
            Err(found) => problems.extend(found),
        }
    }
    // What a broken file defines is not known, so nothing is said about references that lead nowhere.
    let references = if problems.is_empty() { References::MustExist } else { References::MayBeMissing };
    let snapshot = Registry::new(references).read(&documents, version(sources));
    problems.extend(documents.into_iter().flat_map(Document::into_problems));
    problems.sort();
    match snapshot {
        Ok(snapshot) if problems.is_empty() => Ok(snapshot),
        Err(conflicts) if problems.is_empty() => Err(conflicts.iter().map(unplaced).collect()),
        Ok(_) | Err(_) => Err(problems),
    }
}

/// Reading finds every conflict and its place before this; a conflict is refused even if it did not.
fn unplaced(conflict: &Conflict) -> Problem {
    Problem {
        file: PathBuf::from("registry"),
        line: 1,
        column: 1,
        key: String::new(),
        message: conflict.to_string(),
    }
}

/// What has been read so far.
struct Registry<'d> {
    apps: Shelf<'d, Arc<App>>,
    developers: Shelf<'d, Arc<Developer>>,
    products: Shelf<'d, Arc<Product>>,
    credentials: Vec<Arc<Credential>>,
    credential_places: HashMap<CredentialId, Place<'d>>,
}

impl<'d> Registry<'d> {
    fn new(references: References) -> Self {
        Self {
            apps: Shelf::new("app", references),
            developers: Shelf::new("developer", references),
            products: Shelf::new("product", references),
            credentials: Vec::new(),
            credential_places: HashMap::new(),
        }
    }

    fn read(mut self, documents: &'d [Document<'_>], version: String) -> Result<Snapshot, Vec<Conflict>> {
        let mut apps = Vec::new();
        for document in documents {
            let mut root = document.root();
            root.tables("developer").into_iter().for_each(|table| self.read_developer(table));
            root.tables("product").into_iter().for_each(|table| self.read_product(table));
            apps.extend(root.tables("app"));
            root.finish();
        }
        // Apps last: they name developers and products of any file.
        apps.into_iter().for_each(|table| self.read_app(table));
        let built = Snapshot::build(Definitions {
            apps: self.apps.things(),
            credentials: self.credentials,
            developers: self.developers.things(),
            products: self.products.things(),
            version,
        });
        built.inspect_err(|conflicts| report(conflicts, &self.credential_places))
    }

    fn read_developer(&mut self, mut table: TableReader<'d>) {
        let id = table.required("id", read::placed::<DeveloperId>);
        let status = table.optional("status", read::developer_status);
        table.finish();
        if let Some((place, id)) = id {
            let status = status.unwrap_or(DeveloperStatus::Active);
            self.developers.put(place, id.as_str(), Arc::new(Developer { id: id.clone(), status }));
        }
    }

    fn read_product(&mut self, mut table: TableReader<'d>) {
        let id = table.required("id", read::placed::<ProductId>);
        let scopes = table.optional("scopes", read::scopes).unwrap_or_default();
        let limits = limits::limits(&mut table);
        let operations: Vec<Operation> =
            table.tables("operation").into_iter().filter_map(read::operation).collect();
        told_apart(&table, &operations);
        satisfiable(&table, limits.as_deref(), &operations);
        table.finish();
        if let Some((place, id)) = id {
            let product = Arc::new(Product { id, scopes, limits, operations });
            let name = product.id.clone();
            self.products.put(place, name.as_str(), product);
        }
    }

    fn read_app(&mut self, mut table: TableReader<'d>) {
        let id = table.required("id", read::placed::<AppId>);
        let developer = table.required("developer", |value| self.developers.find(value));
        let status = table.optional("status", read::app_status).unwrap_or(AppStatus::Approved);
        let accepts = table.optional("accepts", read::accepts);
        let limits = limits::limits(&mut table);
        let priority = table.optional("priority", limits::priority).unwrap_or_default();
        let grants = self.read_grants(&mut table);
        let mut drafts: Vec<CredentialDraft<'d>> = Vec::new();
        for (number, certificate) in (1..).zip(table.tables("certificate")) {
            let default_id = id.as_ref().map(|(_, id)| format!("{id}-cert-{number}"));
            drafts.extend(read::certificate(certificate, default_id.as_deref()));
        }
        drafts.extend(table.tables("api_key").into_iter().filter_map(read::api_key));
        drafts.extend(table.tables("signature").into_iter().filter_map(read::signature));
        table.finish();
        let app = id.zip(developer).map(|((place, id), developer)| {
            let app = Arc::new(App { id, developer, status, accepts, limits, priority, grants });
            self.apps.put(place, app.id.as_str(), Arc::clone(&app));
            app
        });
        for draft in drafts {
            self.keep(draft, app.as_ref());
        }
    }

    fn read_grants(&self, table: &mut TableReader<'d>) -> Vec<Grant> {
        let mut grants: Vec<(Place<'d>, Grant)> = Vec::new();
        for mut grant in table.tables("grant") {
            let found = grant.required("product", |value| self.products.find(value).zip(Some(value.place())));
            let status = grant.optional("status", read::grant_status);
            let expires = grant.optional("expires", |value| value.timestamp());
            grant.finish();
            let Some((product, place)) = found else { continue };
            match grants.iter().find(|(_, earlier)| earlier.product.id == product.id) {
                Some((earlier, _)) => {
                    place.problem(format!("the app has a grant to it already, at {earlier}"))
                }
                None => {
                    let status = status.unwrap_or(GrantStatus::Approved);
                    grants.push((place, Grant { product, status, expires }));
                }
            }
        }
        grants.into_iter().map(|(_, grant)| grant).collect()
    }

    fn keep(&mut self, draft: CredentialDraft<'d>, app: Option<&Arc<App>>) {
        let CredentialDraft { place, id, secret, status, created, not_before, expires } = draft;
        if let Some(earlier) = self.credential_places.get(&id) {
            place.problem(format!("there is a credential `{id}` already, at {earlier}"));
            return;
        }
        self.credential_places.insert(id.clone(), place);
        if let (Some(app), Some(secret)) = (app, secret) {
            let app = Arc::clone(app);
            self.credentials.push(Arc::new(Credential {
                id,
                app,
                secret,
                status,
                created,
                not_before,
                expires,
            }));
        }
    }
}

/// Reports operations of one product that would be counted as one.
fn told_apart(table: &TableReader<'_>, operations: &[Operation]) {
    let mut seen = HashSet::new();
    for id in operations.iter().filter_map(|operation| operation.id.as_ref()) {
        if !seen.insert(id) {
            table.problem(format!("two of its operations are called `{id}`"));
        }
    }
}

/// Reports a quota that not even a single request would fit into.
fn satisfiable(table: &TableReader<'_>, product: Option<&Limits>, operations: &[Operation]) {
    for operation in operations {
        let levels = [product, operation.limits.as_deref()].into_iter().flatten();
        let quotas = levels.filter_map(|limits| limits.quota.as_ref()).map(Quota::limit);
        let least = quotas.min().unwrap_or(u64::MAX);
        if least > 0 && u64::from(operation.weight) > least {
            let weight = operation.weight;
            table.problem(format!("an operation weighs {weight}, which a quota of {least} never lets pass"));
        }
    }
}

fn report(conflicts: &[Conflict], places: &HashMap<CredentialId, Place<'_>>) {
    for conflict in conflicts {
        if let Conflict::AmbiguousRule { first, second, .. } = conflict
            && let (Some(earlier), Some(later)) = (places.get(first), places.get(second))
        {
            later.problem(format!("the credential `{first}` at {earlier} stands for the same certificates"));
        }
    }
}

/// Twelve hexadecimal digits that change when a file is added, removed, renamed or edited. The same on every host,
/// wherever the directory lies.
fn version(sources: &[Source]) -> String {
    let mut files: Vec<(Vec<u8>, &str)> = sources
        .iter()
        .map(|source| {
            let name = source.path.file_name().unwrap_or_default();
            (name.as_encoded_bytes().to_vec(), source.text.as_str())
        })
        .collect();
    files.sort();
    let mut hash = digest::Context::new(&digest::SHA256);
    for (name, text) in files {
        for part in [name.as_slice(), text.as_bytes()] {
            hash.update(part.len().to_string().as_bytes());
            hash.update(b":");
            hash.update(part);
        }
    }
    let mut digits = data_encoding::HEXLOWER.encode(hash.finish().as_ref());
    digits.truncate(12);
    digits
}
