//! From the text of the registry's files to what they define, or to everything that is wrong with them.
//!
//! **Invariant:** no problem ever quotes a key's hash.

use std::cell::Cell;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use crate::id::{AppId, CredentialId, DeveloperId, ProductId};
use crate::limit::{Limits, Quota};
use crate::registry::limits;
use crate::registry::model::MOST_SCOPES;
use crate::registry::page::{self, Entry, Page};
use crate::registry::read::{self, CredentialDraft};
use crate::registry::snapshot::{Conflict, Taken};
use crate::registry::{
    Accepts, App, AppStatus, Credential, Developer, DeveloperStatus, Grant, GrantStatus, KeyAlone, Library,
    Operation, Product, Snapshot,
};
use crate::suggest;
use crate::toml_text::{Document, Place, Problem, TableReader, Value};

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
    Library::read(sources).map(|library| Snapshot::clone(library.snapshot()))
}

/// What is said of a reference that leads nowhere.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum References {
    /// Nothing: a file is missing, and it may be there.
    MayBeMissing,
    /// Nothing: it may be in a file that has not been read yet, so that this one is to be read again.
    MayCome,
    /// It is a problem.
    MustExist,
}

/// Reads files one after the other.
pub(super) struct Reader<'b> {
    /// What has been read so far, but developers and products if there is a base.
    pub(super) snapshot: Snapshot,
    /// Where developers and products are looked for, if not among what has been read.
    base: Option<&'b Snapshot>,
    /// The files that have been read.
    pub(super) pages: Vec<Page>,
    /// The one that is being read.
    page: Page,
    references: References,
    /// Whether a reference led nowhere.
    has_gap: Cell<bool>,
    /// How many more times a nearest word, or an earlier place, is looked for: each time costs a walk through everything.
    walks: Cell<usize>,
}

impl<'b> Reader<'b> {
    /// Nothing has been read yet.
    pub(super) fn new() -> Self {
        Self {
            snapshot: Snapshot::default(),
            base: None,
            pages: Vec::new(),
            page: Page::default(),
            references: References::MustExist,
            has_gap: Cell::new(false),
            walks: Cell::new(WALKS),
        }
    }

    /// Reads apps that rest on the developers and products of `base`.
    pub(super) fn beside(base: &'b Snapshot) -> Self {
        Self { base: Some(base), ..Self::new() }
    }

    /// Begins a file.
    pub(super) fn open(&mut self, page: Page) {
        self.page = page;
    }

    /// Ends a file.
    pub(super) fn close(&mut self) {
        self.pages.push(std::mem::take(&mut self.page));
    }

    /// Forgets the apps of the file that is being read, which is then to be read again from the page that is given.
    pub(super) fn put_off(&mut self) -> Page {
        let page = std::mem::take(&mut self.page);
        page.apps.iter().for_each(|app| self.snapshot.take_app(&app.id));
        page.credentials.iter().for_each(|credential| self.snapshot.take_credential(&credential.id));
        Page { apps: Vec::new(), credentials: Vec::new(), ..page }
    }

    /// Reads a file that has changed since it was `before`. Gives whether all of it is understood, and nothing that apps of
    /// other files rest on is new in it.
    pub(super) fn read_again(&mut self, source: &Source, before: Option<&Page>) -> bool {
        let Ok(document) = Document::parse(&source.path, &source.text) else { return false };
        let mut shared = Reader::new();
        shared.open(Page::of(source));
        shared.read_shared(&document);
        if !self.has_the_same(&shared, before) {
            return false;
        }
        self.open(shared.page);
        let complete = self.read_apps(&document, References::MayCome);
        self.close();
        complete && document.into_problems().is_empty()
    }

    /// Whether `shared` defines the developers and products that the page `before` did, and nothing of them has changed.
    fn has_the_same(&self, shared: &Reader<'_>, before: Option<&Page>) -> bool {
        fn names<I: Clone + Ord>(entries: &[Entry<I>]) -> Vec<I> {
            let mut names: Vec<I> = entries.iter().map(|entry| entry.id.clone()).collect();
            names.sort_unstable();
            names
        }
        let (developers, products) =
            before.map_or_else(Default::default, |page| (names(&page.developers), names(&page.products)));
        names(&shared.page.developers) == developers
            && names(&shared.page.products) == products
            && shared.snapshot.developers().all(|one| self.known().developer(one.id.as_str()) == Some(one))
            && shared.snapshot.products().all(|one| self.known().product(one.id.as_str()) == Some(one))
    }

    /// Reads the developers and products of a file.
    pub(super) fn read_shared(&mut self, document: &Document<'_>) {
        let mut root = document.root();
        root.tables("developer").into_iter().for_each(|table| self.read_developer(table));
        root.tables("product").into_iter().for_each(|table| self.read_product(table));
    }

    /// Reads the apps of a file whose developers and products have been read. Gives whether all that they name is there.
    pub(super) fn read_apps(&mut self, document: &Document<'_>, references: References) -> bool {
        self.references = references;
        self.has_gap.set(false);
        let mut root = document.root();
        // These have been read.
        drop((root.value("developer"), root.value("product")));
        root.tables("app").into_iter().for_each(|table| self.read_app(table));
        root.finish();
        !self.has_gap.get()
    }

    fn read_developer(&mut self, mut table: TableReader<'_>) {
        let id = table.required("id", read::placed::<DeveloperId>);
        let status = table.optional("status", read::developer_status);
        table.finish();
        if let Some((place, id)) = id {
            let status = status.unwrap_or(DeveloperStatus::Active);
            match self.snapshot.put_developer(Arc::new(Developer { id: id.clone(), status })) {
                Ok(()) => self.page.developers.push(entry(id, &place)),
                Err(Taken) => self.taken(&place, "a developer", &id, |page| &page.developers),
            }
        }
    }

    fn read_product(&mut self, mut table: TableReader<'_>) {
        let id = table.required("id", read::placed::<ProductId>);
        let scopes = table.optional("scopes", read::scopes).unwrap_or_default();
        if scopes.len() > MOST_SCOPES {
            table.problem(format!("a product conveys at most {MOST_SCOPES} scopes"));
        }
        let approval = table.optional("approval", read::approval).unwrap_or_default();
        let environments = table.optional("environments", read::environments).flatten();
        let key_alone = read::key_alone(&mut table);
        let accepts = table.optional("accepts", read::accepts);
        let limits = limits::limits(&mut table);
        let operations: Vec<Operation> =
            table.tables("operation").into_iter().filter_map(read::operation).collect();
        told_apart(&table, &operations);
        satisfiable(&table, limits.as_deref(), &operations);
        conveyed(&table, &scopes, &operations);
        not_alone(&table, &key_alone, accepts.as_ref(), &operations);
        table.finish();
        if let Some((place, id)) = id {
            let product = Product {
                id: id.clone(),
                approval,
                environments,
                key_alone,
                scopes,
                accepts,
                limits,
                operations,
            };
            match self.snapshot.put_product(Arc::new(product)) {
                Ok(()) => self.page.products.push(entry(id, &place)),
                Err(Taken) => self.taken(&place, "a product", &id, |page| &page.products),
            }
        }
    }

    fn read_app(&mut self, mut table: TableReader<'_>) {
        let id = table.required("id", read::placed::<AppId>);
        let developer = table.required("developer", |value| self.developer(value));
        let status = table.optional("status", read::app_status).unwrap_or(AppStatus::Approved);
        let accepts = table.optional("accepts", read::accepts);
        let limits = limits::limits(&mut table);
        let priority = table.optional("priority", limits::priority).unwrap_or_default();
        let key_max_age = table.optional("key_max_age", read::some_time);
        let attributes = table.table("attributes").map(read::attributes).unwrap_or_default();
        let grants = self.read_grants(&mut table);
        let mut drafts: Vec<CredentialDraft<'_>> = Vec::new();
        for (number, certificate) in (1..).zip(table.tables("certificate")) {
            let default_id = id.as_ref().map(|(_, id)| format!("{id}-cert-{number}"));
            drafts.extend(read::certificate(certificate, default_id.as_deref()));
        }
        drafts.extend(table.tables("api_key").into_iter().filter_map(read::api_key));
        drafts.extend(table.tables("client_key").into_iter().filter_map(read::client_key));
        drafts.extend(table.tables("client_secret").into_iter().filter_map(read::client_secret));
        drafts.extend(table.tables("signature").into_iter().filter_map(read::signature));
        for (number, token) in (1..).zip(table.tables("token")) {
            let default_id = id.as_ref().map(|(_, id)| format!("{id}-token-{number}"));
            drafts.extend(read::token(token, default_id.as_deref()));
        }
        table.finish();
        let app = id.zip(developer).map(|((place, id), developer)| {
            let app = Arc::new(App {
                id,
                developer,
                status,
                accepts,
                limits,
                priority,
                key_max_age,
                attributes,
                grants,
            });
            match self.snapshot.put_app(Arc::clone(&app)) {
                Ok(()) => self.page.apps.push(entry(app.id.clone(), &place)),
                Err(Taken) => self.taken(&place, "an app", &app.id, |page| &page.apps),
            }
            app
        });
        for draft in drafts {
            self.keep(draft, app.as_ref());
        }
    }

    fn read_grants<'d>(&self, table: &mut TableReader<'d>) -> Vec<Grant> {
        let mut grants: Vec<(Place<'d>, Grant)> = Vec::new();
        for table in table.tables("grant") {
            let Some((place, grant)) = self.read_grant(table, |product| product.approval.first_status())
            else {
                continue;
            };
            put_grant(&mut grants, place, grant, "the app has a grant to it already, at");
        }
        without_places(grants)
    }

    fn read_grant<'d>(
        &self,
        mut table: TableReader<'d>,
        otherwise: impl FnOnce(&Product) -> GrantStatus,
    ) -> Option<(Place<'d>, Grant)> {
        let found = table.required("product", |value| self.product(value).zip(Some(value.place())));
        let status = table.optional("status", read::grant_status);
        let expires = table.optional("expires", |value| value.timestamp());
        let accepts = table.optional("accepts", read::accepts);
        table.finish();
        let (product, place) = found?;
        let status = status.unwrap_or_else(|| otherwise(&product));
        Some((place, Grant { product, status, expires, accepts }))
    }

    /// The products that a credential is confined to: their names, or tables as those of the app's own grants. It never has
    /// more than its app.
    fn read_share(&self, value: &Value<'_>, app: Option<&Arc<App>>) -> Vec<Grant> {
        let mut grants: Vec<(Place<'_>, Grant)> = Vec::new();
        for item in value.array().unwrap_or_default() {
            let grant = if item.is_text() {
                self.product(&item).map(|product| {
                    let grant =
                        Grant { product, status: GrantStatus::Approved, expires: None, accepts: None };
                    (item.place(), grant)
                })
            } else {
                item.table().and_then(|table| self.read_grant(table, |_| GrantStatus::Approved))
            };
            let Some((place, grant)) = grant else { continue };
            let of_app = |app: &Arc<App>| app.grants.iter().any(|own| own.product.id == grant.product.id);
            if app.is_some_and(|app| !of_app(app)) {
                place.problem("the app has no grant to it, and a credential never has more than its app");
            }
            put_grant(&mut grants, place, grant, "it stands here already, at");
        }
        without_places(grants)
    }

    /// The scopes that a credential is confined to. One that no product conveys is a slip of the pen.
    fn read_confinement(&self, value: &Value<'_>) -> Vec<String> {
        let known = |item: &Value<'_>| read::scope(item).filter(|scope| self.is_conveyed(scope, item));
        value.list(known).unwrap_or_default()
    }

    fn keep(&mut self, draft: CredentialDraft<'_>, app: Option<&Arc<App>>) {
        let CredentialDraft {
            place,
            id,
            secret,
            status,
            created,
            not_before,
            expires,
            scopes,
            grants,
            bindings,
        } = draft;
        let scopes = scopes.map(|value| self.read_confinement(&value));
        let grants = grants.map(|value| self.read_share(&value, app));
        let (Some(app), Some(secret)) = (app, secret) else { return };
        let credential = Credential {
            id: id.clone(),
            app: Arc::clone(app),
            secret,
            status,
            created,
            not_before,
            expires,
            scopes,
            grants,
            bindings,
        };
        match self.snapshot.put_credential(Arc::new(credential)) {
            Ok(()) => self.page.credentials.push(entry(id, &place)),
            Err(Conflict::Taken) => self.taken(&place, "a credential", &id, |page| &page.credentials),
            Err(Conflict::SameKey(other)) => {
                self.ambiguous(&place, &other, "is the same key, which is on file already, under another name");
            }
            Err(Conflict::SameRule(other)) => {
                self.ambiguous(&place, &other, "stands for the same certificates");
            }
            Err(Conflict::SameToken(other)) => self.ambiguous(
                &place,
                &other,
                "could stand for the same token: all rules of an issuer name the same claim, and those with the same value \
                 in it differ in another",
            ),
        }
    }

    /// Reports that another credential stands for the same.
    fn ambiguous(&self, place: &Place<'_>, other: &CredentialId, why: &str) {
        let at = self.earlier(other, |page| &page.credentials).map(|at| format!(" at {at}"));
        place.problem(format!("the credential `{other}`{} {why}", at.unwrap_or_default()));
    }

    /// Where developers and products are.
    fn known(&self) -> &Snapshot {
        self.base.unwrap_or(&self.snapshot)
    }

    /// The developer that a value names.
    fn developer(&self, reference: &Value<'_>) -> Option<Arc<Developer>> {
        let found = self.known().developer(reference.text()?).cloned();
        found.or_else(|| {
            self.nowhere("developer", reference, || {
                self.known().developers().map(|one| one.id.as_str()).collect()
            })
        })
    }

    /// The product that a value names.
    fn product(&self, reference: &Value<'_>) -> Option<Arc<Product>> {
        let found = self.known().product(reference.text()?).cloned();
        found.or_else(|| {
            self.nowhere("product", reference, || {
                self.known().products().map(|one| one.id.as_str()).collect()
            })
        })
    }

    /// Whether some product conveys a scope.
    fn is_conveyed(&self, scope: &str, reference: &Value<'_>) -> bool {
        let known =
            || self.known().products().flat_map(|one| one.scopes.iter().map(String::as_str)).collect();
        self.known().conveys(scope) || self.nowhere::<()>("scope", reference, known).is_some()
    }

    /// Notes that a reference leads nowhere, and reports it with the nearest name where that is a problem.
    fn nowhere<'s, T>(
        &self,
        sort: &str,
        reference: &Value<'_>,
        known: impl FnOnce() -> Vec<&'s str>,
    ) -> Option<T> {
        self.has_gap.set(true);
        if self.references == References::MustExist {
            let name = reference.text()?;
            let guess = if self.may_walk() { suggest::did_you_mean(name, known()) } else { String::new() };
            reference.problem(format!("there is no {sort} `{}`{guess}", name.escape_debug()));
        }
        None
    }

    /// Reports that the name of a thing is taken.
    fn taken<I: Eq + std::fmt::Display>(
        &self,
        place: &Place<'_>,
        sort: &str,
        id: &I,
        entries: impl Fn(&Page) -> &[Entry<I>],
    ) {
        let at = self.earlier(id, entries).map(|at| format!(", at {at}")).unwrap_or_default();
        place.problem(format!("there is {sort} `{id}` already{at}"));
    }

    /// Where a thing stands that was read before; none if too many have been looked for.
    fn earlier<I: Eq>(&self, id: &I, entries: impl Fn(&Page) -> &[Entry<I>]) -> Option<String> {
        if !self.may_walk() {
            return None;
        }
        self.pages.iter().chain([&self.page]).find_map(|page| {
            let entry = entries(page).iter().find(|entry| entry.id == *id)?;
            Some(page::place(&page.path, entry.line))
        })
    }

    fn may_walk(&self) -> bool {
        let left = self.walks.get();
        self.walks.set(left.saturating_sub(1));
        left > 0
    }
}

fn entry<I>(id: I, place: &Place<'_>) -> Entry<I> {
    Entry { id, line: u32::try_from(place.line()).unwrap_or(u32::MAX) }
}

const WALKS: usize = 100;

/// The grants alone, in no more memory than they take: the places would otherwise stay allocated behind them.
fn without_places(grants: Vec<(Place<'_>, Grant)>) -> Vec<Grant> {
    let mut grants: Vec<Grant> = grants.into_iter().map(|(_, grant)| grant).collect();
    grants.shrink_to_fit();
    grants
}

/// Adds a grant, or reports that there is one to its product.
fn put_grant<'d>(grants: &mut Vec<(Place<'d>, Grant)>, place: Place<'d>, grant: Grant, objection: &str) {
    match grants.iter().find(|(_, earlier)| earlier.product.id == grant.product.id) {
        Some((earlier, _)) => place.problem(format!("{objection} {earlier}")),
        None => grants.push((place, grant)),
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

/// Reports scopes that operations ask for in vain.
fn conveyed(table: &TableReader<'_>, scopes: &[String], operations: &[Operation]) {
    for scope in operations.iter().flat_map(|operation| &operation.scopes) {
        if !scopes.contains(scope) {
            table.problem(format!(
                "an operation asks for the scope `{scope}`, which the product does not convey"
            ));
        }
    }
}

/// Reports where a product of high sensitivity says itself that an API key alone is enough.
fn not_alone(
    table: &TableReader<'_>,
    key_alone: &KeyAlone,
    product: Option<&Accepts>,
    operations: &[Operation],
) {
    let levels = operations.iter().filter_map(|operation| operation.accepts.as_ref()).chain(product);
    if levels.flat_map(Accepts::iter).any(|alternative| !key_alone.admits(alternative)) {
        table.problem(
            "`accepts` lets an API key in alone, which sensitivity = \"high\" refuses; take it out, or say in `api_key_alone` \
             why it may",
        );
    }
}
