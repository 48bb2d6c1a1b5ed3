//! Answers "who can do this" by the registry and the doors at hand, whether an agent runs or not.

use crate::admin::{Deed, Entitled, EntitledApp, StewardError};
use crate::authz::{Ask, Door, who_can};
use crate::clock::Timestamp;
use crate::proxy::{ListenerProtocol, ListenerSettings, ServiceSettings};
use crate::registry::{Methods, PolicyPath, Snapshot};

/// Who may do `deed` through any of `listeners` to one of `services`.
///
/// # Errors
/// There is no such service, or the deed makes no sense.
pub fn entitled<'a>(
    deed: &Deed,
    registry: &Snapshot,
    services: impl IntoIterator<Item = &'a ServiceSettings>,
    listeners: impl IntoIterator<Item = &'a ListenerSettings>,
    now: Timestamp,
) -> Result<Entitled, StewardError> {
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
        .map(|listener| Door { listener: listener.accepts.as_ref(), service: service.accepts.as_ref() })
        .collect();
    let ask = Ask::Http { service: &service.id, method: &deed.method, path: &path };
    let ways = who_can(registry, &ask, &doors, now).into_iter().map(|way| EntitledApp {
        app: way.app.id.clone(),
        developer: way.app.developer.id.clone(),
        product: way.grant.product.id.clone(),
        operation: way.operation.label().to_owned(),
        credentials: way.kinds.iter().map(|kind| kind.to_string()).collect(),
        grant_ends: way.grant.expires,
    });
    Ok(Entitled { at: now, registry: registry.version().to_owned(), ways: ways.collect() })
}
