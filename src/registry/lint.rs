//! What is allowed in the registry and still hardly ever meant: a right that nobody has, a rule that is never reached.
//!
//! **Invariant:** nothing here changes what is decided. A lint speaks only where what it says is sure.

use std::collections::HashSet;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::id::{EnvironmentId, ProductId, ServiceId};
use crate::registry::{
    Accepts, App, AppStatus, Approval, Credential, CredentialKind, CredentialStatus, DeveloperStatus,
    GrantStatus, KeyAlone, KindSet, Methods, Operation, Product, ServiceSelector, Share, Snapshot, Target,
};

/// One thing that is hardly meant as it stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lint {
    /// Which of the lints speaks.
    pub name: LintName,
    /// What it is about, from the top of the registry down, as `product.orders.operation[2]`.
    pub key: String,
    /// What it found, in words.
    pub message: String,
}

/// The lints, by their names, which do not change.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum LintName {
    /// An app has credentials and no grant.
    AppWithoutGrants,
    /// A credential has expired.
    CredentialExpired,
    /// A credential expires within [`SOON`].
    CredentialExpiresSoon,
    /// A grant is pending, and its product names nobody who decides.
    GrantUndecided,
    /// One API key opens more than [`MANY_PRODUCTS`].
    KeyOpensMany,
    /// An operation is every path of a service with every method, or of every service.
    OperationOverBroad,
    /// An operation is never reached: an earlier one of its product is wider.
    OperationShadowed,
    /// A product is for other environments than this agent's.
    ProductElsewhere,
    /// A product is for no environment.
    ProductNowhere,
    /// A product of high sensitivity asks for nothing but an API key.
    ProductSensitiveByKey,
    /// Neither quota nor spike limits what an app may do with a product.
    ProductUnbounded,
    /// No app has a product.
    ProductUnreachable,
    /// A product names a service that the configuration does not know.
    ServiceUnknown,
}

impl LintName {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::AppWithoutGrants,
        Self::CredentialExpired,
        Self::CredentialExpiresSoon,
        Self::GrantUndecided,
        Self::KeyOpensMany,
        Self::OperationOverBroad,
        Self::OperationShadowed,
        Self::ProductElsewhere,
        Self::ProductNowhere,
        Self::ProductSensitiveByKey,
        Self::ProductUnbounded,
        Self::ProductUnreachable,
        Self::ServiceUnknown,
    ];

    /// The name, as it is printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AppWithoutGrants => "app-without-grants",
            Self::CredentialExpired => "credential-expired",
            Self::CredentialExpiresSoon => "credential-expires-soon",
            Self::GrantUndecided => "grant-undecided",
            Self::KeyOpensMany => "key-opens-many",
            Self::OperationOverBroad => "operation-over-broad",
            Self::OperationShadowed => "operation-shadowed",
            Self::ProductElsewhere => "product-elsewhere",
            Self::ProductNowhere => "product-nowhere",
            Self::ProductSensitiveByKey => "product-sensitive-by-key",
            Self::ProductUnbounded => "product-unbounded",
            Self::ProductUnreachable => "product-unreachable",
            Self::ServiceUnknown => "service-unknown",
        }
    }

    fn at(self, key: String, message: impl Into<String>) -> Lint {
        Lint { name: self, key, message: message.into() }
    }
}

/// How long before its end a credential should have been replaced.
pub const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// More products are too many for one API key: who finds it has them all.
pub const MANY_PRODUCTS: usize = 5;

/// What is said of a registry by itself, products first.
#[must_use]
pub fn lint(registry: &Snapshot, now: Timestamp) -> Vec<Lint> {
    let holdings = Holdings::of(registry, now);
    let products = registry.products().flat_map(|product| of_product(product, &holdings));
    let apps = registry.apps().filter(|app| may_call(app));
    let apps = apps.flat_map(|app| of_app(app, &holdings));
    let credentials = registry.credentials().filter(|credential| may_call(&credential.app));
    products.chain(apps).chain(credentials.flat_map(|credential| of_credential(credential, now))).collect()
}

/// Where an agent stands, and what it guards.
#[derive(Clone, Copy, Debug)]
pub struct Here<'c> {
    /// The environment, if it has a name.
    pub environment: Option<&'c EnvironmentId>,
    /// The services.
    pub services: &'c HashSet<&'c ServiceId>,
}

/// What is said of a registry where one agent uses it.
#[must_use]
pub fn lint_here(registry: &Snapshot, here: Here<'_>) -> Vec<Lint> {
    registry.products().flat_map(|product| of_product_here(product, here)).collect()
}

/// Who holds what, over all apps.
#[derive(Default)]
struct Holdings<'s> {
    /// Products to which some app that may call has a right, or is going to have one.
    granted: HashSet<&'s ProductId>,
    /// Products to which an app has a right that nothing of the app's own limits.
    unlimited: HashSet<&'s ProductId>,
    /// Apps that have credentials with which they could call.
    equipped: HashSet<&'s str>,
}

impl<'s> Holdings<'s> {
    fn of(registry: &'s Snapshot, now: Timestamp) -> Self {
        let mut holdings = Self::default();
        for app in registry.apps().filter(|app| may_call(app)) {
            for grant in &app.grants {
                if grant.is_in_force(now) || grant.status == GrantStatus::Pending {
                    holdings.granted.insert(&grant.product.id);
                    if app.limits.is_none() {
                        holdings.unlimited.insert(&grant.product.id);
                    }
                }
            }
        }
        let good = |credential: &&std::sync::Arc<Credential>| credential.status != CredentialStatus::Revoked;
        holdings.equipped.extend(registry.credentials().filter(good).map(|one| one.app.id.as_str()));
        holdings
    }
}

/// Whether an app may call anything at all. Of those that may not, nothing is said: they are out of use.
fn may_call(app: &App) -> bool {
    app.status == AppStatus::Approved && app.developer.status == DeveloperStatus::Active
}

fn of_product(product: &Product, holdings: &Holdings<'_>) -> Vec<Lint> {
    let key = || format!("product.{}", product.id);
    let mut found = Vec::new();
    if !holdings.granted.contains(&product.id) {
        let message = "no app that may call has a grant to it that is in force or pending";
        found.push(LintName::ProductUnreachable.at(key(), message));
    }
    if product.environments.as_ref().is_some_and(Vec::is_empty) {
        let message = "it is for no environment, so it opens nothing; write [\"*\"] for all";
        found.push(LintName::ProductNowhere.at(key(), message));
    }
    let bounded = |operation: &Operation| product.limits.is_some() || operation.limits.is_some();
    if holdings.unlimited.contains(&product.id) && !product.operations.iter().all(bounded) {
        let message = "neither `quota` nor `spike` limits what each app may do with it";
        found.push(LintName::ProductUnbounded.at(key(), message));
    }
    if matches!(product.key_alone, KeyAlone::AdmitFor(_)) && asks_for_a_key_only(product) {
        let message = "it is of high sensitivity, and its `accepts` asks for nothing but an API key";
        found.push(LintName::ProductSensitiveByKey.at(key(), message));
    }
    for (at, operation) in product.operations.iter().enumerate() {
        let earlier = product.operations.iter().take(at);
        if let Some((wider, _)) = earlier.enumerate().find(|(_, earlier)| shadows(earlier, operation)) {
            let wider = called(product, wider);
            let message = format!("it is never reached: {wider} stands before it and covers all of it");
            found.push(LintName::OperationShadowed.at(called(product, at), message));
        }
        if let Some(message) = breadth(operation) {
            found.push(LintName::OperationOverBroad.at(called(product, at), message));
        }
    }
    found
}

/// `product.orders.operation.list`, or by its number, counted from one.
fn called(product: &Product, at: usize) -> String {
    match product.operations.get(at).and_then(|operation| operation.id.as_ref()) {
        Some(id) => format!("product.{}.operation.{id}", product.id),
        None => format!("product.{}.operation[{}]", product.id, at + 1),
    }
}

/// Whether a product, or each of its operations, is content with an API key.
fn asks_for_a_key_only(product: &Product) -> bool {
    // A user's token says nothing of the app.
    let key = KindSet::EMPTY.with(CredentialKind::ApiKey).with(CredentialKind::UserToken);
    let by_key = |accepts: &Option<Accepts>| accepts.as_ref().is_some_and(|one| one.only_ask_for(key));
    let every = product.operations.iter().all(|operation| by_key(&operation.accepts));
    by_key(&product.accepts) || (every && !product.operations.is_empty())
}

/// Whether whoever could come to `later` is let in by `earlier` first, which stands before it in the same product.
fn shadows(earlier: &Operation, later: &Operation) -> bool {
    let service = match (&earlier.service, &later.service) {
        (ServiceSelector::Any, _) => true,
        (ServiceSelector::Named(one), ServiceSelector::Named(other)) => one == other,
        (ServiceSelector::Named(_), ServiceSelector::Any) => false,
    };
    service
        && covers(&earlier.target, &later.target)
        && earlier.when.is_none()
        && earlier.scopes.iter().all(|scope| later.scopes.contains(scope))
        && lets_in_all_of(earlier.accepts.as_ref(), later.accepts.as_ref())
}

fn covers(earlier: &Target, later: &Target) -> bool {
    match (earlier, later) {
        (Target::Tcp, Target::Tcp) => true,
        (Target::Http { methods, path }, Target::Http { methods: others, path: other }) => {
            contain_all(methods, others) && path.surely_covers(other)
        }
        (Target::Tcp, Target::Http { .. }) | (Target::Http { .. }, Target::Tcp) => false,
    }
}

/// Whether these are the others and perhaps more. Of none it is not said, for they cover nothing anyway.
fn contain_all(methods: &Methods, others: &Methods) -> bool {
    match (methods, others) {
        (_, Methods::Listed(others)) => {
            !others.is_empty() && others.iter().all(|method| methods.contains(method.as_str()))
        }
        (Methods::Any, Methods::Any) => true,
        (Methods::Listed(_), Methods::Any) => false,
    }
}

/// Whether all whom `later` lets in are let in by `earlier`.
fn lets_in_all_of(earlier: Option<&Accepts>, later: Option<&Accepts>) -> bool {
    // What asks for two credentials in the headers of one request also allows a request to have two.
    let has_room_for_two =
        |accepts: &Accepts| accepts.iter().any(|alternative| alternative.in_headers().is_several());
    match (earlier, later) {
        (one, other) if one == other => true,
        (_, Some(later)) if has_room_for_two(later) => false,
        (None, _) => true,
        (Some(earlier), Some(later)) => later.iter().all(|alternative| earlier.satisfied_by(alternative)),
        (Some(_), None) => false,
    }
}

/// What is too wide about an operation. A condition makes any of them narrow.
fn breadth(operation: &Operation) -> Option<&'static str> {
    let anywhere = operation.service == ServiceSelector::Any;
    match &operation.target {
        _ if operation.when.is_some() => None,
        Target::Tcp => anywhere.then_some("it is about connections to every service"),
        Target::Http { path, .. } if !path.covers_all() => None,
        Target::Http { methods, .. } => match (anywhere, methods) {
            (true, Methods::Any) => Some("it is about every request to every service"),
            (true, Methods::Listed(_)) => Some("it is about every path of every service"),
            (false, Methods::Any) => Some("it is about every method on every path of the service"),
            (false, Methods::Listed(_)) => None,
        },
    }
}

fn of_app(app: &App, holdings: &Holdings<'_>) -> Vec<Lint> {
    let mut found = Vec::new();
    if app.grants.is_empty() && holdings.equipped.contains(app.id.as_str()) {
        let message = "it has credentials and no grant: it is known, and refused everywhere";
        found.push(LintName::AppWithoutGrants.at(format!("app.{}", app.id), message));
    }
    for (number, grant) in (1..).zip(&app.grants) {
        if grant.status == GrantStatus::Pending && grant.product.approval == Approval::Auto {
            let message = format!(
                "it is pending, and nobody is to decide: the product `{}` does not say approval = \"manual\"",
                grant.product.id
            );
            found.push(LintName::GrantUndecided.at(format!("app.{}.grant[{number}]", app.id), message));
        }
    }
    found
}

fn of_credential(credential: &Credential, now: Timestamp) -> Vec<Lint> {
    if credential.status == CredentialStatus::Revoked {
        return Vec::new();
    }
    let table = match credential.kind() {
        CredentialKind::Mtls => "certificate",
        kind @ (CredentialKind::ApiKey
        | CredentialKind::ClientKey
        | CredentialKind::ClientSecret
        | CredentialKind::Signature
        | CredentialKind::Token
        | CredentialKind::UserToken) => kind.as_str(),
    };
    let key = || format!("app.{}.{table}.{}", credential.app.id, credential.id);
    let mut found = Vec::new();
    match credential.expires {
        Some(expires) if expires <= now => {
            let message = format!("it expired at {expires}; revoke it or take it out");
            found.push(LintName::CredentialExpired.at(key(), message));
        }
        Some(expires) if expires.since(now) <= SOON => {
            found.push(LintName::CredentialExpiresSoon.at(key(), format!("it expires at {expires}")));
        }
        Some(_) | None => {}
    }
    let opened = products_of(credential, now);
    let in_use = credential.expires.is_none_or(|expires| now < expires);
    if credential.kind() == CredentialKind::ApiKey && in_use && opened > MANY_PRODUCTS {
        let message = format!("one key opens {opened} products; confine it with `grants`, or make several");
        found.push(LintName::KeyOpensMany.at(key(), message));
    }
    found
}

/// How many products a credential has a right to now.
fn products_of(credential: &Credential, now: Timestamp) -> usize {
    let has = |product: &ProductId| match credential.share_of(product) {
        Share::Nothing => false,
        Share::Part(part) => part.is_in_force(now),
        Share::Whole => true,
    };
    credential.app.grants.iter().filter(|grant| grant.is_in_force(now) && has(&grant.product.id)).count()
}

fn of_product_here(product: &Product, here: Here<'_>) -> Vec<Lint> {
    let nowhere = product.environments.as_ref().is_some_and(Vec::is_empty);
    if !product.is_for(here.environment) && !nowhere {
        let message = match here.environment {
            Some(environment) => format!("it is for other environments than `{environment}`, this agent's"),
            None => "it is for certain environments, and this agent's has no name".to_owned(),
        };
        // Other environments may well have services that are not here.
        return vec![LintName::ProductElsewhere.at(format!("product.{}", product.id), message)];
    }
    let operations = product.operations.iter().enumerate();
    let unknown = operations.filter_map(|(at, operation)| match &operation.service {
        ServiceSelector::Named(service) if !here.services.contains(service) => {
            let message = format!("the configuration has no service `{service}`");
            Some(LintName::ServiceUnknown.at(format!("{}.service", called(product, at)), message))
        }
        ServiceSelector::Any | ServiceSelector::Named(_) => None,
    });
    unknown.collect()
}

#[cfg(test)]
mod tests;
