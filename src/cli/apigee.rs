//! What Apigee has on file, as `apigeecli` exports it, in the words of the registry.
//!
//! **Invariant:** nothing is lost in silence. Whatever of an export has no counterpart here is a line of [`Imported::lost`]; what
//! was taken in one of several ways is a line of [`Imported::notes`]. Where the two differ in what nothing means (a product without
//! proxies is open to all of them there), nothing is given here.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use anyhow::Context as _;
use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::id::{AppId, EnvironmentId, ServiceId};
use crate::limit::Period;
use crate::registry::{Method, PathRule};

/// What three files of an export say; an absent one says nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Export {
    pub(super) products: Vec<Value>,
    pub(super) developers: Vec<Value>,
    pub(super) apps: Vec<Value>,
}

/// Which service stands for an API proxy, and below which path its resources lie.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ProxyRule {
    pub(super) proxy: String,
    pub(super) service: ServiceId,
    /// Without a slash at its end.
    pub(super) base: String,
}

impl FromStr for ProxyRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "expected PROXY=SERVICE or PROXY=SERVICE/BASE/PATH";
        let (proxy, target) = text.split_once('=').ok_or(expected)?;
        let (service, base) = match target.find('/') {
            Some(at) => target.split_at(at),
            None => (target, ""),
        };
        let service = service.parse::<ServiceId>().map_err(|error| error.to_string())?;
        Ok(Self { proxy: proxy.to_owned(), service, base: base.trim_end_matches('/').to_owned() })
    }
}

/// The registry that an export comes to.
#[derive(Clone, Debug, Default)]
pub(super) struct Imported {
    pub(super) developers: String,
    pub(super) products: String,
    pub(super) apps: String,
    /// What has no counterpart, a line each.
    pub(super) lost: Vec<String>,
    /// What was decided, a line each.
    pub(super) notes: Vec<String>,
}

/// Puts an export into the words of the registry; `hash` makes a consumer key what is kept of it.
///
/// # Errors
/// A consumer key cannot be hashed at all.
pub(super) fn translate(
    export: &Export,
    rules: &[ProxyRule],
    hash: impl Fn(&str) -> anyhow::Result<Result<String, String>>,
) -> anyhow::Result<Imported> {
    let mut clerk =
        Clerk { rules, out: Imported::default(), taken: BTreeSet::new(), assumed: BTreeSet::new() };
    let developers = clerk.developers(&export.developers);
    let products = clerk.products(&export.products);
    clerk.apps(&export.apps, &developers, &products, hash)?;
    Ok(clerk.out)
}

struct Clerk<'r> {
    rules: &'r [ProxyRule],
    out: Imported,
    /// Names that are given, by sort.
    taken: BTreeSet<(&'static str, String)>,
    /// Proxies that were taken for the service of the same name.
    assumed: BTreeSet<String>,
}

/// What a product is called here, and the scopes that it conveys.
struct ProductName {
    id: String,
    scopes: Vec<String>,
}

impl Clerk<'_> {
    fn lose(&mut self, what: &str, why: &str) {
        self.out.lost.push(format!("{what}: {why}"));
    }

    /// Tells what an object says that nobody has read.
    fn lose_others(&mut self, what: &str, object: &Map<String, Value>, read: &[&str]) {
        let others =
            object.iter().filter(|(key, value)| !read.contains(&key.as_str()) && !says_nothing(value));
        let lost: Vec<String> =
            others.map(|(key, _)| format!("{what}: `{key}` has no counterpart")).collect();
        self.out.lost.extend(lost);
    }

    /// A name that can be one here, and is nobody else's.
    fn name(&mut self, sort: &'static str, wanted: &str, otherwise: &str) -> String {
        let plain = slug(wanted);
        let numbered = (2..).map(|number| format!("{}-{number}", cut(&plain, 58)));
        let both = slug(&format!("{}-{otherwise}", cut(&plain, 40)));
        let mut candidates = [plain.clone(), both].into_iter().chain(numbered);
        let free = candidates.find(|name| !self.taken.contains(&(sort, name.clone()))).unwrap_or_default();
        self.taken.insert((sort, free.clone()));
        if free != wanted {
            self.out.notes.push(format!("the {sort} {wanted:?} is called {free} here"));
        }
        free
    }

    /// What developers are called here, by id and by e-mail address.
    fn developers(&mut self, developers: &[Value]) -> BTreeMap<String, String> {
        let mut names = BTreeMap::new();
        for object in developers.iter().filter_map(Value::as_object) {
            let Some(email) = text(object, "email") else {
                self.lose("a developer", "has no `email`, so it is not known who it is");
                continue;
            };
            let id = self.name("developer", email, "developer");
            let what = format!("developer {email}");
            let status = match text(object, "status") {
                Some("active") | None => "active",
                Some("inactive") => "inactive",
                Some(other) => {
                    self.lose(&what, &format!("the status {other:?} is taken as inactive"));
                    "inactive"
                }
            };
            self.lose_others(&what, object, &DEVELOPER_KEYS);
            self.lose_attributes(&what, object, &[]);
            let person = [text(object, "firstName"), text(object, "lastName"), text(object, "userName")];
            let person: Vec<&str> = person.into_iter().flatten().collect();
            let comment = comment(&[email, &person.join(" ")]);
            self.out.developers.push_str(&format!(
                "{comment}[[developer]]\nid = {}\nstatus = {}\n\n",
                quoted(&id),
                quoted(status)
            ));
            names.insert(email.to_owned(), id.clone());
            names.extend(text(object, "developerId").map(|other| (other.to_owned(), id)));
        }
        names
    }

    fn products(&mut self, products: &[Value]) -> BTreeMap<String, ProductName> {
        let mut names = BTreeMap::new();
        for object in products.iter().filter_map(Value::as_object) {
            let Some(name) = text(object, "name") else {
                self.lose("a product", "has no `name`");
                continue;
            };
            let id = self.name("product", name, "product");
            let what = format!("product {name}");
            let told =
                [name, text(object, "displayName").unwrap_or(""), text(object, "description").unwrap_or("")];
            let mut table = format!("{}[[product]]\nid = {}\n", comment(&told), quoted(&id));
            match text(object, "approvalType") {
                Some("manual") => table.push_str("approval = \"manual\"\n"),
                Some("auto") | None => {}
                Some(other) => {
                    table.push_str("approval = \"manual\"\n");
                    self.lose(&what, &format!("the approval {other:?} is taken as manual"));
                }
            }
            let environments = texts(object, "environments");
            if !environments.is_empty() {
                let (known, others): (Vec<_>, Vec<_>) =
                    environments.into_iter().partition(|one| one.parse::<EnvironmentId>().is_ok());
                table.push_str(&format!("environments = {}\n", list(&known)));
                for other in others {
                    self.lose(&what, &format!("the environment {other:?} is no name here"));
                }
            }
            let scopes = texts(object, "scopes");
            if !scopes.is_empty() {
                table.push_str(&format!("scopes = {}\n", list(&scopes)));
            }
            let quota = ["quota", "quotaInterval", "quotaTimeUnit"].map(|key| object.get(key));
            table.push_str(
                &self.quota(&what, quota).map(|quota| format!("quota = {quota}\n")).unwrap_or_default(),
            );
            let operations = self.operations(&what, object);
            if operations.is_empty() {
                self.lose(
                    &what,
                    "it names no proxy, which there means each of them; here it covers nothing until it has operations",
                );
            }
            table.push('\n');
            operations.iter().for_each(|operation| table.push_str(operation));
            self.lose_others(&what, object, &PRODUCT_KEYS);
            self.lose_attributes(&what, object, &["access"]);
            self.out.products.push_str(&table);
            names.insert(name.to_owned(), ProductName { id, scopes });
        }
        names
    }

    /// Attributes of what has none here, but for those that are about the portal.
    fn lose_attributes(&mut self, what: &str, object: &Map<String, Value>, harmless: &[&str]) {
        for (name, value) in attributes(object) {
            if !harmless.contains(&name) {
                self.lose(what, &format!("the attribute {name} = {value:?} has no counterpart"));
            }
        }
    }

    /// `quota`, `interval` and unit, as a table on one line.
    fn quota(&mut self, what: &str, parts: [Option<&Value>; 3]) -> Option<String> {
        let [limit, interval, unit] = parts.map(|part| part.map(said).unwrap_or_default());
        if limit.is_empty() || limit == "null" {
            return None;
        }
        let unit = match unit.to_ascii_lowercase().as_str() {
            "second" => "s",
            "minute" => "min",
            "hour" | "" => "h",
            "day" => "d",
            "week" => "w",
            "month" => "month",
            "year" => "year",
            _ => "?",
        };
        let interval = if interval.is_empty() { "1".to_owned() } else { interval };
        let per = format!("{interval}{unit}");
        if limit.parse::<u64>().is_err() || per.parse::<Period>().is_err() {
            self.lose(what, &format!("the quota {limit} per {per} cannot be kept here"));
            return None;
        }
        Some(format!("{{ limit = {limit}, per = {} }}", quoted(&per)))
    }

    fn operations(&mut self, what: &str, product: &Map<String, Value>) -> Vec<String> {
        let mut operations = Vec::new();
        for config in configs(product, "operationGroup") {
            let source = text(config, "apiSource").unwrap_or("");
            let listed = objects(config, "operations");
            let quota = config.get("quota").and_then(Value::as_object);
            let parts = ["limit", "interval", "timeUnit"].map(|key| quota.and_then(|quota| quota.get(key)));
            let quota = self.quota(what, parts);
            if quota.is_some() && listed.len() > 1 {
                self.lose(
                    what,
                    &format!("the operations of {source} share a quota there; here each has its own"),
                );
            }
            let everything = Map::from_iter([("resource".to_owned(), Value::from("/"))]);
            for operation in if listed.is_empty() { vec![&everything] } else { listed } {
                let resource = text(operation, "resource").unwrap_or("/");
                let methods = texts(operation, "methods");
                for path in self.paths(what, source, resource) {
                    let number = operations.len() + 1;
                    let id = quota.as_ref().map(|quota| (format!("op-{number}"), quota.as_str()));
                    operations.extend(self.operation(what, source, &path, &methods, id));
                }
                self.lose_others(what, operation, &["resource", "methods"]);
            }
            self.lose_attributes(what, config, &[]);
            self.lose_others(what, config, &["apiSource", "operations", "quota", "attributes"]);
        }
        for config in configs(product, "grpcOperationGroup") {
            let (source, service) =
                (text(config, "apiSource").unwrap_or(""), text(config, "service").unwrap_or(""));
            let methods = texts(config, "methods");
            let methods = if methods.is_empty() { vec!["*".to_owned()] } else { methods };
            let parts = config.get("quota").and_then(Value::as_object);
            let parts = ["limit", "interval", "timeUnit"].map(|key| parts.and_then(|quota| quota.get(key)));
            let quota = self.quota(what, parts);
            for method in methods {
                let number = operations.len() + 1;
                let id = quota.as_ref().map(|quota| (format!("op-{number}"), quota.as_str()));
                let path = format!("/{service}/{method}");
                operations.extend(self.operation(what, source, &path, &["POST".to_owned()], id));
            }
            self.lose_attributes(what, config, &[]);
            self.lose_others(what, config, &["apiSource", "service", "methods", "quota", "attributes"]);
        }
        for config in configs(product, "graphqlOperationGroup") {
            let source = text(config, "apiSource").unwrap_or("");
            self.lose(
                what,
                &format!("GraphQL operations of {source}: what a body asks for is not looked at here"),
            );
        }
        let resources = texts(product, "apiResources");
        let resources = if resources.is_empty() { vec!["/".to_owned()] } else { resources };
        for proxy in texts(product, "proxies") {
            for resource in &resources {
                for path in self.paths(what, &proxy, resource) {
                    operations.extend(self.operation(what, &proxy, &path, &[], None));
                }
            }
        }
        operations
    }

    /// The rules that cover what a resource path does, which there is relative to the base path of the proxy.
    fn paths(&self, _what: &str, source: &str, resource: &str) -> Vec<String> {
        let base = self.rule(source).map(|rule| rule.base.as_str()).unwrap_or_default();
        match (base, resource) {
            ("", resource) => vec![resource.to_owned()],
            // It stands for all that is below, and for the base path itself.
            (base, "/") => vec![base.to_owned(), format!("{base}/**")],
            (base, resource) => vec![format!("{base}{resource}")],
        }
    }

    fn rule(&self, proxy: &str) -> Option<&ProxyRule> {
        self.rules.iter().find(|rule| rule.proxy == proxy)
    }

    fn operation(
        &mut self,
        what: &str,
        proxy: &str,
        path: &str,
        methods: &[String],
        counted: Option<(String, &str)>,
    ) -> Option<String> {
        let service = match self.rule(proxy) {
            Some(rule) => rule.service.to_string(),
            None => slug(proxy),
        };
        if self.rule(proxy).is_none() && self.assumed.insert(proxy.to_owned()) {
            self.out.notes.push(format!(
                "the proxy {proxy:?} is taken for the service {service} with the base path /; --service {proxy}=NAME/BASE says otherwise"
            ));
        }
        if let Err(error) = path.parse::<PathRule>() {
            self.lose(what, &format!("the resource {path:?} of {proxy}: {error}"));
            return None;
        }
        let methods: Vec<String> = methods.iter().map(|method| method.to_ascii_uppercase()).collect();
        if let Some(unknown) = methods.iter().find(|method| method.parse::<Method>().is_err()) {
            self.lose(what, &format!("the resource {path:?} of {proxy}: {unknown:?} is no method"));
            return None;
        }
        let methods = if methods.is_empty() { vec!["*".to_owned()] } else { methods };
        let id = counted.as_ref().map(|(id, _)| format!("id = {}\n", quoted(id))).unwrap_or_default();
        let quota = counted.map(|(_, quota)| format!("quota = {quota}\n")).unwrap_or_default();
        Some(format!(
            "[[product.operation]]\n{id}service = {}\nmethods = {}\npath = {}\n{quota}\n",
            quoted(&service),
            list(&methods),
            quoted(path)
        ))
    }

    fn apps(
        &mut self,
        apps: &[Value],
        developers: &BTreeMap<String, String>,
        products: &BTreeMap<String, ProductName>,
        hash: impl Fn(&str) -> anyhow::Result<Result<String, String>>,
    ) -> anyhow::Result<()> {
        for object in apps.iter().filter_map(Value::as_object) {
            let name = text(object, "name").or_else(|| text(object, "appId")).unwrap_or("without a name");
            let what = format!("app {name}");
            let owner = text(object, "developerId").or_else(|| text(object, "developerEmail"));
            let Some(developer) = owner.and_then(|owner| developers.get(owner)) else {
                let owner = owner.unwrap_or("nobody");
                self.lose(
                    &what,
                    &format!("it is of {owner}, who is no developer of the export, so it is left out"),
                );
                continue;
            };
            let id = self.name("app", name, developer);
            let status = match text(object, "status") {
                Some("approved") | None => "approved",
                Some("revoked") => "revoked",
                Some(other) => {
                    self.lose(&what, &format!("the status {other:?} is taken as revoked"));
                    "revoked"
                }
            };
            let told = [name, text(object, "appId").unwrap_or("")];
            let mut table = format!(
                "{}[[app]]\nid = {}\ndeveloper = {}\nstatus = {}\n",
                comment(&told),
                quoted(&id),
                quoted(developer),
                quoted(status)
            );
            table.push_str(&self.app_attributes(&what, object));
            let credentials = objects(object, "credentials");
            let grants = self.grants(&what, object, &credentials, products);
            for (number, credential) in (1..).zip(&credentials) {
                let confined = credentials.len() > 1;
                let key = self.key(&what, (&id, number), credential, products, confined, &hash)?;
                table.push_str(&key.unwrap_or_default());
            }
            for (product, status) in grants {
                let (product, status) = (quoted(&product), quoted(status.word()));
                table.push_str(&format!("\n[[app.grant]]\nproduct = {product}\nstatus = {status}\n"));
            }
            table.push('\n');
            self.lose_others(&what, object, &APP_KEYS);
            self.out.apps.push_str(&table);
        }
        Ok(())
    }

    fn app_attributes(&mut self, what: &str, app: &Map<String, Value>) -> String {
        let mut entries = BTreeMap::new();
        for (name, value) in attributes(app) {
            let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
            if !plain || name.is_empty() || entries.insert(name, quoted(value)).is_some() {
                self.lose(
                    what,
                    &format!("the attribute {name:?} cannot be called so here, or is there twice"),
                );
            }
        }
        if entries.is_empty() {
            return String::new();
        }
        let entries: Vec<String> =
            entries.into_iter().map(|(name, value)| format!("{name} = {value}")).collect();
        format!("attributes = {{ {} }}\n", entries.join(", "))
    }

    /// What the app was granted by any of its credentials, at its best.
    fn grants(
        &mut self,
        what: &str,
        app: &Map<String, Value>,
        credentials: &[&Map<String, Value>],
        products: &BTreeMap<String, ProductName>,
    ) -> BTreeMap<String, Given> {
        let mut grants = BTreeMap::new();
        for link in credentials.iter().flat_map(|credential| objects(credential, "apiProducts")) {
            let name = text(link, "apiproduct").unwrap_or("");
            match products.get(name) {
                None => {
                    self.lose(what, &format!("the product {name:?} is not in the export, nor granted here"))
                }
                Some(product) => {
                    let given = Given::of(link);
                    let best = grants.entry(product.id.clone()).or_insert(given);
                    *best = given.max(*best);
                }
            }
        }
        for name in texts(app, "apiProducts") {
            if products.get(&name).is_none_or(|product| !grants.contains_key(&product.id)) {
                self.lose(
                    what,
                    &format!("the product {name:?} is named by the app, and by none of its keys"),
                );
            }
        }
        grants
    }

    fn key(
        &mut self,
        what: &str,
        (app, number): (&str, usize),
        credential: &Map<String, Value>,
        products: &BTreeMap<String, ProductName>,
        confined: bool,
        hash: &impl Fn(&str) -> anyhow::Result<Result<String, String>>,
    ) -> anyhow::Result<Option<String>> {
        let id = format!("{}-key-{number}", cut(app, 54));
        let what = format!("{what}, key {number}");
        let Some(secret) = text(credential, "consumerKey") else {
            self.lose(&what, "it has no `consumerKey`: export with credentials");
            return Ok(None);
        };
        let hash = match hash(secret).with_context(|| what.clone())? {
            Ok(hash) => hash,
            Err(why) => {
                self.lose(&what, &format!("it is not taken over: {why}"));
                return Ok(None);
            }
        };
        let mut table = format!("\n[[app.api_key]]\nid = {}\nhash = {}\n", quoted(&id), quoted(&hash));
        match text(credential, "status") {
            Some("approved") | None => {}
            Some(word @ ("pending" | "revoked")) => table.push_str(&format!("status = {}\n", quoted(word))),
            Some(other) => {
                table.push_str("status = \"revoked\"\n");
                self.lose(&what, &format!("the status {other:?} is taken as revoked"));
            }
        }
        for (key, name) in [("issuedAt", "created"), ("expiresAt", "expires")] {
            let milliseconds = credential.get(key).map(said).filter(|text| !text.is_empty() && text != "-1");
            let Some(milliseconds) = milliseconds else { continue };
            match instant(&milliseconds) {
                Some(instant) => table.push_str(&format!("{name} = {instant}\n")),
                None => self.lose(&what, &format!("`{key}` {milliseconds:?} is no instant")),
            }
        }
        let links: Vec<_> = objects(credential, "apiProducts");
        let known =
            links.iter().filter_map(|link| Some((products.get(text(link, "apiproduct")?)?, Given::of(link))));
        let known: Vec<_> = known.collect();
        if confined {
            let grants = known.iter().map(|(product, given)| {
                format!("{{ product = {}, status = {} }}", quoted(&product.id), quoted(given.word()))
            });
            table.push_str(&format!("grants = [{}]\n", grants.collect::<Vec<_>>().join(", ")));
        }
        let scopes = texts(credential, "scopes");
        if !scopes.is_empty() {
            let conveyed = |scope: &String| products.values().any(|product| product.scopes.contains(scope));
            let (own, others): (Vec<_>, Vec<_>) = scopes.into_iter().partition(conveyed);
            table.push_str(&format!("scopes = {}\n", list(&own)));
            for other in others {
                self.lose(&what, &format!("the scope {other:?} is conveyed by no product"));
            }
        }
        if text(credential, "consumerSecret").is_some_and(|secret| !secret.is_empty()) {
            self.lose(
                &what,
                "its consumer secret is not taken over: `postern key create --client-secret` makes another one",
            );
        }
        self.lose_others(&what, credential, &CREDENTIAL_KEYS);
        self.lose_attributes(&what, credential, &[]);
        Ok(Some(table))
    }
}

/// How far a grant has come, from the least to the best.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
enum Given {
    Revoked,
    Pending,
    Approved,
}

impl Given {
    fn of(link: &Map<String, Value>) -> Self {
        match text(link, "status") {
            Some("approved") | None => Self::Approved,
            Some("pending") => Self::Pending,
            Some(_) => Self::Revoked,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Pending => "pending",
            Self::Revoked => "revoked",
        }
    }
}

/// What is read, and what is about the former place only.
const DEVELOPER_KEYS: [&str; 16] = [
    "email",
    "status",
    "firstName",
    "lastName",
    "userName",
    "developerId",
    "attributes",
    "apps",
    "companies",
    "appFamily",
    "organizationName",
    "createdAt",
    "createdBy",
    "lastModifiedAt",
    "lastModifiedBy",
    "accessType",
];
const PRODUCT_KEYS: [&str; 19] = [
    "name",
    "displayName",
    "description",
    "approvalType",
    "attributes",
    "apiResources",
    "operationGroup",
    "grpcOperationGroup",
    "graphqlOperationGroup",
    "environments",
    "proxies",
    "quota",
    "quotaInterval",
    "quotaTimeUnit",
    "scopes",
    "createdAt",
    "createdBy",
    "lastModifiedAt",
    "lastModifiedBy",
];
const APP_KEYS: [&str; 15] = [
    "appId",
    "name",
    "status",
    "developerId",
    "developerEmail",
    "attributes",
    "credentials",
    "apiProducts",
    "displayName",
    "appFamily",
    "keyExpiresIn",
    "createdAt",
    "createdBy",
    "lastModifiedAt",
    "lastModifiedBy",
];
const CREDENTIAL_KEYS: [&str; 8] = [
    "consumerKey",
    "consumerSecret",
    "status",
    "issuedAt",
    "expiresAt",
    "apiProducts",
    "scopes",
    "attributes",
];

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn text<'v>(object: &'v Map<String, Value>, key: &str) -> Option<&'v str> {
    object.get(key).and_then(Value::as_str)
}

fn texts(object: &Map<String, Value>, key: &str) -> Vec<String> {
    let items = object.get(key).and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

fn objects<'v>(object: &'v Map<String, Value>, key: &str) -> Vec<&'v Map<String, Value>> {
    let items = object.get(key).and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_object).collect()
}

fn configs<'v>(product: &'v Map<String, Value>, group: &str) -> Vec<&'v Map<String, Value>> {
    let group = product.get(group).and_then(Value::as_object);
    group.map(|group| objects(group, "operationConfigs")).unwrap_or_default()
}

fn attributes(object: &Map<String, Value>) -> Vec<(&str, &str)> {
    let pairs = objects(object, "attributes").into_iter();
    pairs.map(|pair| (text(pair, "name").unwrap_or(""), text(pair, "value").unwrap_or(""))).collect()
}

/// A number may be written as a text there.
fn said(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Milliseconds since 1970.
fn instant(milliseconds: &str) -> Option<Timestamp> {
    let seconds = milliseconds.parse::<i64>().ok()?.div_euclid(1000);
    (seconds > 0).then(|| Timestamp::from_unix(seconds))
}

/// The name with what is none of a name's letters replaced.
fn slug(name: &str) -> String {
    let plain = |letter: char| {
        if letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-') { letter } else { '-' }
    };
    let name: String = name.chars().map(plain).collect();
    let name = cut(name.trim_start_matches(|first: char| !first.is_ascii_alphanumeric()), 64);
    if name.parse::<AppId>().is_ok() { name.to_owned() } else { "unnamed".to_owned() }
}

/// At most so many ASCII letters.
fn cut(name: &str, most: usize) -> &str {
    name.get(..most).unwrap_or(name)
}

fn quoted(text: &str) -> String {
    toml_edit::Value::from(text).to_string()
}

fn list(texts: &[String]) -> String {
    toml_edit::Value::Array(texts.iter().map(String::as_str).collect()).to_string()
}

/// One line above a table, of what is not empty and not the same twice.
fn comment(parts: &[&str]) -> String {
    let mut said: Vec<String> = Vec::new();
    for part in parts {
        let part: String =
            part.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
        if !part.trim().is_empty() && !said.contains(&part) {
            said.push(part);
        }
    }
    if said.is_empty() { String::new() } else { format!("# {}\n", said.join(", ")) }
}
