//! The data plane: doors in and out, TLS, the strict HTTP gate, and the way to whatever answers.

mod settings;
mod snapshot;
mod sightings;
mod uses;
mod signs;
mod sessions;
mod tls;
mod deadline;
mod ending;
mod crowd;
mod pressure;
mod drip;
mod buffer;
mod linger;
mod framing;
mod judgement;
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
mod grpc;
mod h2_head;
mod trailers;
mod h2_upstream;
mod h2_bridge;
mod forward;
mod h2_relay;
mod preface;
mod http1;
mod hpack;
mod h2_guard;
mod http2;
mod proxy_protocol;
mod tcp;
mod turns;
mod upgrade;
mod inbound;
mod outbound;
mod plane;
mod rehearse;
mod reading;

pub use context::{Attestor, NotAttested, PlaneContext};
pub use plane::{Claim, Door, Opening, Plane, PlaneError, Recollection, Scissors, Socket};
pub use pressure::{Gauge, Pressure};
pub use reading::{
    AnswerBody, AnswerHead, Conversation, End, Request, read_answer, read_conversation, read_proxy_header,
};
pub use rehearse::{Caller, Outcome, Part, rehearse};
pub use settings::{
    AssertionRules, Ceiling, CertificateFields, ClientCert, Detail, Details, Endpoint, ErrorFormat, Limits,
    ListenerProtocol, ListenerSettings, OldestTls, RemoteProtocol, RemoteSettings, SendProxy,
    ServiceProtocol, ServiceSettings, Watch, Xfcc,
};
pub use sightings::{Lookout, Sighting};
pub use signs::{Noticed, Sign, Signs};
pub use snapshot::{Client, Current, Listener, Remote, Routes, Snapshot, Standing};
pub use tls::{TlsError, client_config, server_config, web_client_config};
pub use trailers::{InvalidTrailerName, TrailerName};
pub use upgrade::{InvalidUpgradeProtocol, UpgradeProtocol};
pub use uses::{CredentialUse, UseReports};

#[cfg(test)]
mod agreement_tests;
#[cfg(test)]
mod tests;
