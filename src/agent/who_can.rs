//! Answers "who can do this" by the registry and the doors at hand, whether an agent runs or not.

use crate::admin::{Deed, Entitled, EntitledApp, StewardError};
use crate::authz::{Ask, Door, Proviso, who_can};
use crate::clock::Timestamp;
use crate::credential::token::Proves;
use crate::id::EnvironmentId;
use crate::proxy::{ListenerProtocol, ListenerSettings, ServiceSettings};
use crate::registry::{Credential, Methods, PolicyPath, Snapshot};

/// Where an app would have to get in.
#[derive(Clone, Debug)]
pub struct Doors<'a, S, L> {
    /// The services.
    pub services: S,
    /// The listeners.
    pub listeners: L,
    /// What the environment is called, if it has a name.
    pub environment: Option<&'a EnvironmentId>,
    /// Whose tokens are believed.
    pub issuers: Vec<(&'a str, Proves)>,
}

/// Who may do `deed` through any of the listeners to one of the services.
///
/// # Errors
/// There is no such service, or the deed makes no sense.
pub fn entitled<'a>(
    deed: &Deed,
    registry: &Snapshot,
    doors: Doors<
        'a,
        impl IntoIterator<Item = &'a ServiceSettings>,
        impl IntoIterator<Item = &'a ListenerSettings>,
    >,
    now: Timestamp,
) -> Result<Entitled, StewardError> {
    let Doors { services, listeners, environment, issuers } = doors;
    let service = services.into_iter().find(|service| service.id == deed.service);
    let service =
        service.ok_or_else(|| StewardError::Unknown(format!("there is no service {}", deed.service)))?;
    let path = PolicyPath::parse(&deed.path).map_err(|error| {
        StewardError::Invalid(format!("no request has the path {:?}: {error}", deed.path))
    })?;
    if deed.method.is_empty() || !Methods::Any.contains(&deed.method) {
        return Err(StewardError::Invalid("expected a method such as GET".to_owned()));
    }
    let http = listeners.into_iter().filter(|listener| listener.protocol == ListenerProtocol::Http);
    let doors: Vec<Door<'_>> = http
        .map(|listener| Door {
            listener: listener.accepts.as_ref(),
            service: service.accepts.as_ref(),
            environment,
        })
        .collect();
    let ask = Ask::Http { service: &service.id, method: &deed.method, path: &path };
    let ways = who_can(registry, &ask, &doors, &issuers, now).into_iter().map(|way| EntitledApp {
        app: way.app.id.clone(),
        developer: way.app.developer.id.clone(),
        product: way.grant.product.id.clone(),
        operation: way.operation.label().to_owned(),
        credentials: way.kinds.iter().map(|kind| kind.to_string()).collect(),
        provisos: way.provisos.iter().map(told).collect(),
        grant_ends: way.grant.expires,
    });
    Ok(Entitled { at: now, registry: registry.version().to_owned(), ways: ways.collect() })
}

fn told(proviso: &Proviso<'_>) -> String {
    match proviso {
        Proviso::Claims(condition) => format!("its token claims what {:?} asks for", condition.as_str()),
        Proviso::Credentials(credentials) => {
            let first: Vec<String> = credentials.iter().take(NAMED).map(|one| bound(one)).collect();
            let others = credentials.len().saturating_sub(NAMED);
            let others = if others == 0 { String::new() } else { format!(" or one of {others} others") };
            format!("it comes with {}{others}", first.join(" or "))
        }
        Proviso::Scopes(scopes) => format!("its token names {}", scopes.join(" ")),
    }
}

/// So many credentials of one kind are told by name.
const NAMED: usize = 3;

fn bound(credential: &Credential) -> String {
    let bindings = credential.bindings.as_ref().map(|bindings| format!(" {bindings}"));
    format!("{} {}{}", credential.kind(), credential.id, bindings.unwrap_or_default())
}
