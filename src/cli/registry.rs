//! `postern developer`, `app`, `product` and `grant`: what is on file, and changes of it.

use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use super::args::{
    AnyOr, AppVerb, DeveloperVerb, EditArgs, Format, GrantArgs, GrantVerb, NewArgs, OperationArgs,
    ProductVerb,
};
use super::clerk::{self, Done, Errand};
use super::key::snapshot;
use super::locate;
use super::moment::moment;
use super::output;
use super::table::Table;
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config::Config;
use crate::id::{AppId, CredentialId, DeveloperId, ProductId};
use crate::registry::{
    App, CredentialStatus, Grant, GrantStatus, Method, Methods, Operation, Product, ServiceSelector,
    Snapshot, Target as Aim,
};
use crate::store::registry_change::{
    Change, NewMethods, NewOperation, Target, app_word, credential_word, developer_word, grant_word,
};
use crate::store::registry_edit::Edit;

pub(super) fn developer(config: &Path, verb: DeveloperVerb) -> anyhow::Result<()> {
    let config = locate::config(config)?;
    match verb {
        DeveloperVerb::List(format) => list_developers(&snapshot(&config)?, format),
        DeveloperVerb::Show { id, format } => show_developer(&snapshot(&config)?, &id, format),
        DeveloperVerb::Create { id, place } => {
            let change = Change::AddDeveloper { id: id.clone() };
            change_it(&config, "developer.create", change, &place, |file| {
                format!("{id} is active, in {file}")
            })
        }
        DeveloperVerb::Activate { id, terms } => {
            let change = Change::SetStatus(Target::Developer(id.clone()), "active");
            change_it(&config, "developer.activate", change, &terms.into(), |file| {
                format!("{id} is active, in {file}; its apps may call")
            })
        }
        DeveloperVerb::Deactivate { id, terms } => {
            let change = Change::SetStatus(Target::Developer(id.clone()), "inactive");
            change_it(&config, "developer.deactivate", change, &terms.into(), |file| {
                format!("{id} is inactive, in {file}; a running agent refuses its apps within a second")
            })
        }
        DeveloperVerb::Delete { id, terms } => {
            let change = Change::Remove(Target::Developer(id.clone()));
            change_it(&config, "developer.delete", change, &terms.into(), |file| {
                format!("{id} is not on file any more, in {file}")
            })
        }
    }
}

pub(super) fn app(config: &Path, verb: AppVerb) -> anyhow::Result<()> {
    let config = locate::config(config)?;
    match verb {
        AppVerb::List(format) => list_apps(&snapshot(&config)?, format),
        AppVerb::Show { id, format } => show_app(&snapshot(&config)?, &id, format),
        AppVerb::Create { id, developer, place } => {
            let change = Change::AddApp { id: id.clone(), developer };
            change_it(&config, "app.create", change, &place, |file| format!("{id} is approved, in {file}"))
        }
        AppVerb::Approve { id, terms } => {
            let change = Change::SetStatus(Target::App(id.clone()), "approved");
            change_it(&config, "app.approve", change, &terms.into(), |file| {
                format!("{id} is approved, in {file}")
            })
        }
        AppVerb::Revoke { id, terms } => {
            let change = Change::SetStatus(Target::App(id.clone()), "revoked");
            change_it(&config, "app.revoke", change, &terms.into(), |file| {
                format!("{id} is revoked, in {file}; a running agent refuses it within a second")
            })
        }
        AppVerb::Delete { id, terms } => {
            let change = Change::Remove(Target::App(id.clone()));
            change_it(&config, "app.delete", change, &terms.into(), |file| {
                format!("{id} is not on file any more, in {file}")
            })
        }
    }
}

pub(super) fn product(config: &Path, verb: ProductVerb) -> anyhow::Result<()> {
    let config = locate::config(config)?;
    match verb {
        ProductVerb::List(format) => list_products(&snapshot(&config)?, format),
        ProductVerb::Show { id, format } => show_product(&snapshot(&config)?, &id, format),
        ProductVerb::Create { id, scope, place } => {
            let change = Change::AddProduct { id: id.clone(), scopes: scope };
            change_it(&config, "product.create", change, &place, |file| {
                format!("{id} is in {file}, and covers nothing before `product add-operation`")
            })
        }
        ProductVerb::AddOperation(args) => {
            let OperationArgs { product, service, method, path, tcp: _, id, terms } = args;
            let service = match service {
                AnyOr::Any => ServiceSelector::Any,
                AnyOr::One(service) => ServiceSelector::Named(service),
            };
            let request = path.map(|path| anyhow::Ok((methods(method)?, path))).transpose()?;
            let operation = NewOperation { id, service, request };
            let change = Change::AddOperation { product: product.clone(), operation };
            change_it(&config, "product.add-operation", change, &terms.into(), |file| {
                format!("{product} covers that, too, in {file}")
            })
        }
        ProductVerb::Delete { id, terms } => {
            let change = Change::Remove(Target::Product(id.clone()));
            change_it(&config, "product.delete", change, &terms.into(), |file| {
                format!("{id} is not on file any more, in {file}")
            })
        }
    }
}

fn methods(given: Vec<AnyOr<Method>>) -> anyhow::Result<NewMethods> {
    if given == [AnyOr::Any] {
        return Ok(NewMethods::Any);
    }
    let listed = given.into_iter().map(|method| match method {
        AnyOr::Any => None,
        AnyOr::One(method) => Some(method),
    });
    let listed: Option<Vec<Method>> = listed.collect();
    Ok(NewMethods::Listed(listed.context("`--method '*'` means all methods, and stands alone")?))
}

pub(super) fn grant(config: &Path, verb: GrantVerb) -> anyhow::Result<()> {
    let config = locate::config(config)?;
    match verb {
        GrantVerb::List { app, format } => list_grants(&snapshot(&config)?, app.as_ref(), format),
        GrantVerb::Add { grant: GrantArgs { app, product, terms }, expires, approved, pending } => {
            let now = SystemClock.now();
            let expires = expires.map(|expires| expires.from(now));
            if let Some(expires) = expires.filter(|expires| *expires <= now) {
                anyhow::bail!("the grant would have ended at {expires}, before it was made");
            }
            let status = match (approved, pending) {
                (true, _) => Some(GrantStatus::Approved),
                (false, true) => Some(GrantStatus::Pending),
                // As the product says.
                (false, false) => None,
            };
            let change = Change::AddGrant { app: app.clone(), product: product.clone(), status, expires };
            let done = carry_out(&config, "grant.add", change, &terms.into())?;
            let grant = done.as_ref().and_then(|done| {
                done.after.app(app.as_str())?.grants.iter().find(|grant| grant.product.id == product)
            });
            let word = grant.map(|grant| grant_word(grant.status)).unwrap_or_default();
            let told = format!("{app} is granted {product} ({word})");
            clerk::tell(done, |file| format!("{told}, in {file}"))
        }
        GrantVerb::Approve { grant: GrantArgs { app, product, terms } } => {
            let told = format!("the grant of {app} to {product} is approved");
            let change = Change::SetStatus(Target::Grant(app, product), "approved");
            change_it(&config, "grant.approve", change, &terms.into(), |file| format!("{told}, in {file}"))
        }
        GrantVerb::Revoke { grant: GrantArgs { app, product, terms } } => {
            let told = format!("the grant of {app} to {product} is revoked");
            let change = Change::SetStatus(Target::Grant(app, product), "revoked");
            change_it(&config, "grant.revoke", change, &terms.into(), |file| {
                format!("{told}, in {file}; a running agent heeds that within a second")
            })
        }
        GrantVerb::Remove { grant: GrantArgs { app, product, terms } } => {
            let told = format!("the grant of {app} to {product} is not on file any more");
            let change = Change::Remove(Target::Grant(app, product));
            change_it(&config, "grant.remove", change, &terms.into(), |file| format!("{told}, in {file}"))
        }
    }
}

impl From<EditArgs> for NewArgs {
    fn from(terms: EditArgs) -> Self {
        Self { file: None, terms }
    }
}

fn change_it(
    config: &Config,
    verb: &'static str,
    change: Change,
    place: &NewArgs,
    sentence: impl FnOnce(&str) -> String,
) -> anyhow::Result<()> {
    clerk::tell(carry_out(config, verb, change, place)?, sentence)
}

fn carry_out(
    config: &Config,
    verb: &'static str,
    change: Change,
    place: &NewArgs,
) -> anyhow::Result<Option<Done>> {
    let errand = Errand {
        verb,
        target: change.target(),
        reason: place.terms.reason.clone(),
        detail: None,
        dry_run: place.terms.dry_run,
        file: place.file.as_deref(),
    };
    clerk::carry_out(config, &Edit::Change(change), errand)
}

#[derive(Serialize)]
struct DeveloperView<'a> {
    id: &'a DeveloperId,
    status: &'static str,
    apps: Vec<&'a AppId>,
}

fn developers(snapshot: &Snapshot) -> impl Iterator<Item = DeveloperView<'_>> {
    snapshot.developers().map(|developer| DeveloperView {
        id: &developer.id,
        status: developer_word(developer.status),
        apps: snapshot.apps().filter(|app| app.developer.id == developer.id).map(|app| &app.id).collect(),
    })
}

fn list_developers(snapshot: &Snapshot, format: Format) -> anyhow::Result<()> {
    let views: Vec<_> = developers(snapshot).collect();
    if format.json {
        return output::print_json(&views);
    }
    let mut table = Table::new(["DEVELOPER", "STATUS", "APPS"]);
    for view in views {
        table.row([view.id.to_string(), view.status.to_owned(), view.apps.len().to_string()]);
    }
    Ok(output::print(&table.to_string())?)
}

fn show_developer(snapshot: &Snapshot, id: &DeveloperId, format: Format) -> anyhow::Result<()> {
    let names = || snapshot.developers().map(|developer| developer.id.as_str()).collect();
    let view = developers(snapshot).find(|view| view.id == id);
    let view = view.with_context(|| unknown("developer", id.as_str(), names()))?;
    if format.json {
        return output::print_json(&view);
    }
    let apps: String = view.apps.iter().map(|app| format!("  {app}\n")).collect();
    Ok(output::print(&format!("{}, {}\napps\n{apps}", view.id, view.status))?)
}

#[derive(Serialize)]
struct AppView<'a> {
    id: &'a AppId,
    developer: &'a DeveloperId,
    status: &'static str,
    developer_status: &'static str,
    accepts: Option<String>,
    credentials: Vec<CredentialView<'a>>,
    grants: Vec<GrantView<'a>>,
}

#[derive(Serialize)]
struct CredentialView<'a> {
    id: &'a CredentialId,
    kind: &'static str,
    status: String,
    not_before: Option<Timestamp>,
    expires: Option<Timestamp>,
}

#[derive(Serialize)]
struct GrantView<'a> {
    app: &'a AppId,
    product: &'a ProductId,
    status: &'static str,
    expires: Option<Timestamp>,
}

fn app_view<'a>(snapshot: &'a Snapshot, app: &'a App) -> AppView<'a> {
    let own = snapshot.credentials().filter(|credential| credential.app.id == app.id);
    AppView {
        id: &app.id,
        developer: &app.developer.id,
        status: app_word(app.status),
        developer_status: developer_word(app.developer.status),
        accepts: app.accepts.as_ref().map(ToString::to_string),
        credentials: own
            .map(|credential| CredentialView {
                id: &credential.id,
                kind: credential.kind().as_str(),
                status: credential_word(credential.status),
                not_before: credential.not_before,
                expires: credential.expires,
            })
            .collect(),
        grants: app.grants.iter().map(|grant| grant_view(app, grant)).collect(),
    }
}

fn grant_view<'a>(app: &'a App, grant: &'a Grant) -> GrantView<'a> {
    GrantView {
        app: &app.id,
        product: &grant.product.id,
        status: grant_word(grant.status),
        expires: grant.expires,
    }
}

fn list_apps(snapshot: &Snapshot, format: Format) -> anyhow::Result<()> {
    if format.json {
        let views: Vec<_> = snapshot.apps().map(|app| app_view(snapshot, app)).collect();
        return output::print_json(&views);
    }
    let mut live = std::collections::BTreeMap::<&AppId, usize>::new();
    for credential in snapshot.credentials().filter(|one| one.status != CredentialStatus::Revoked) {
        *live.entry(&credential.app.id).or_default() += 1;
    }
    let mut table = Table::new(["APP", "DEVELOPER", "STATUS", "CREDENTIALS", "GRANTS"]);
    for app in snapshot.apps() {
        table.row([
            app.id.to_string(),
            app.developer.id.to_string(),
            app_word(app.status).to_owned(),
            live.get(&app.id).copied().unwrap_or_default().to_string(),
            app.grants.len().to_string(),
        ]);
    }
    Ok(output::print(&table.to_string())?)
}

fn show_app(snapshot: &Snapshot, id: &AppId, format: Format) -> anyhow::Result<()> {
    let names = || snapshot.apps().map(|app| app.id.as_str()).collect();
    let app = snapshot.app(id.as_str()).with_context(|| unknown("app", id.as_str(), names()))?;
    let view = app_view(snapshot, app);
    if format.json {
        return output::print_json(&view);
    }
    let now = SystemClock.now();
    let until =
        |at: Option<Timestamp>| at.map(|at| format!(", until {}", moment(at, now))).unwrap_or_default();
    let mut text =
        format!("{}, {}, of {} ({})\n", view.id, view.status, view.developer, view.developer_status);
    text.push_str(&format!(
        "accepts      {}\n",
        view.accepts.as_deref().unwrap_or("what listener and service do")
    ));
    for one in &view.credentials {
        text.push_str(&format!(
            "credential   {} {}, {}{}\n",
            one.kind,
            one.id,
            one.status,
            until(one.expires)
        ));
    }
    for one in &view.grants {
        text.push_str(&format!("grant        {}, {}{}\n", one.product, one.status, until(one.expires)));
    }
    Ok(output::print(&text)?)
}

fn list_grants(snapshot: &Snapshot, app: Option<&AppId>, format: Format) -> anyhow::Result<()> {
    let apps = snapshot.apps().filter(|one| app.is_none_or(|app| one.id == *app));
    let views: Vec<_> =
        apps.flat_map(|app| app.grants.iter().map(move |grant| grant_view(app, grant))).collect();
    if format.json {
        return output::print_json(&views);
    }
    let now = SystemClock.now();
    let mut table = Table::new(["APP", "PRODUCT", "STATUS", "UNTIL"]);
    for view in views {
        let until = view.expires.map_or_else(|| "-".to_owned(), |at| moment(at, now));
        table.row([view.app.to_string(), view.product.to_string(), view.status.to_owned(), until]);
    }
    Ok(output::print(&table.to_string())?)
}

#[derive(Serialize)]
struct ProductView<'a> {
    id: &'a ProductId,
    scopes: &'a [String],
    operations: Vec<OperationView<'a>>,
    granted_to: Vec<&'a AppId>,
}

#[derive(Serialize)]
struct OperationView<'a> {
    id: Option<&'a str>,
    service: &'a str,
    /// None for raw connections.
    methods: Option<Vec<&'a str>>,
    path: Option<String>,
}

fn product_view<'a>(snapshot: &'a Snapshot, product: &'a Product) -> ProductView<'a> {
    let granted = |app: &&std::sync::Arc<App>| app.grants.iter().any(|grant| grant.product.id == product.id);
    ProductView {
        id: &product.id,
        scopes: &product.scopes,
        operations: product.operations.iter().map(operation_view).collect(),
        granted_to: snapshot.apps().filter(granted).map(|app| &app.id).collect(),
    }
}

fn operation_view(operation: &Operation) -> OperationView<'_> {
    let (methods, path) = match &operation.target {
        Aim::Tcp => (None, None),
        Aim::Http { methods, path } => {
            let methods = match methods {
                Methods::Any => vec!["*"],
                Methods::Listed(methods) => methods.iter().map(Method::as_str).collect(),
            };
            (Some(methods), Some(path.to_string()))
        }
    };
    OperationView {
        id: operation.id.as_ref().map(crate::id::OperationId::as_str),
        service: match &operation.service {
            ServiceSelector::Any => "*",
            ServiceSelector::Named(service) => service.as_str(),
        },
        methods,
        path,
    }
}

fn list_products(snapshot: &Snapshot, format: Format) -> anyhow::Result<()> {
    let views: Vec<_> = snapshot.products().map(|product| product_view(snapshot, product)).collect();
    if format.json {
        return output::print_json(&views);
    }
    let mut table = Table::new(["PRODUCT", "SCOPES", "OPERATIONS", "GRANTED TO"]);
    for view in views {
        let apps = super::moment::count(view.granted_to.len(), "app");
        table.row([view.id.to_string(), view.scopes.join(" "), view.operations.len().to_string(), apps]);
    }
    Ok(output::print(&table.to_string())?)
}

fn show_product(snapshot: &Snapshot, id: &ProductId, format: Format) -> anyhow::Result<()> {
    let names = || snapshot.products().map(|product| product.id.as_str()).collect();
    let product = snapshot.product(id.as_str()).with_context(|| unknown("product", id.as_str(), names()))?;
    let view = product_view(snapshot, product);
    if format.json {
        return output::print_json(&view);
    }
    let mut text = format!("{}\n", view.id);
    if !view.scopes.is_empty() {
        text.push_str(&format!("scopes       {}\n", view.scopes.join(" ")));
    }
    for one in &view.operations {
        let what = match (&one.methods, &one.path) {
            (Some(methods), Some(path)) => format!("{} {path}", methods.join(" ")),
            (None, _) | (_, None) => "raw connections".to_owned(),
        };
        let name = one.id.map(|id| format!(" ({id})")).unwrap_or_default();
        text.push_str(&format!("operation    {}: {what}{name}\n", one.service));
    }
    for app in &view.granted_to {
        text.push_str(&format!("granted to   {app}\n"));
    }
    Ok(output::print(&text)?)
}

fn unknown(sort: &str, name: &str, names: Vec<&str>) -> String {
    let guess = crate::suggest::did_you_mean(name, names);
    format!("there is no {sort} called `{name}` in the registry{guess}")
}
