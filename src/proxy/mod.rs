//! The data plane: doors in and out, TLS, the strict HTTP gate, and the way to whatever answers.

mod settings;
mod snapshot;
mod sightings;
mod uses;
mod signs;
mod sessions;
mod tls;
mod deadline;
mod buffer;
mod linger;
mod framing;
mod leaks;
mod pump;
mod headers;
mod request_id;
mod http_gate;
mod response;
mod limit_fields;
mod fault;
mod proxy_status;
mod refuse;
mod whoami;
mod xfcc;
mod assertion;
mod trace;
mod upstream;
mod context;
mod worker;
mod admission;
mod token_office;
mod relay;
mod forward;
mod http1;
mod http2;
mod tcp;
mod inbound;
mod outbound;
mod plane;
mod rehearse;

pub use context::{Attestor, NotAttested, PlaneContext};
pub use plane::{Claim, Door, Opening, Plane, PlaneError, Recollection, Socket};
pub use rehearse::{Caller, Outcome, Part, rehearse};
pub use settings::{
    AssertionRules, CertificateFields, ClientCert, Detail, Details, Endpoint, ErrorFormat, Limits,
    ListenerProtocol, ListenerSettings, OldestTls, RemoteProtocol, RemoteSettings, ServiceSettings, Watch,
    Xfcc,
};
pub use sightings::{Lookout, Sighting};
pub use signs::{Noticed, Sign, Signs};
pub use snapshot::{Client, Current, Listener, Remote, Routes, Snapshot, Standing};
pub use tls::{TlsError, client_config, server_config, web_client_config};
pub use uses::{CredentialUse, UseReports};

#[cfg(test)]
mod agreement_tests;
#[cfg(test)]
mod tests;
