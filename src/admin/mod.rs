//! The front door for operators: how the agent stands, and what it can be asked to do, over a local socket.

mod secret_text;
mod steward;
mod view;
mod signing;
mod question;
mod entitled;
mod usage_wanted;
mod desk;
mod answer;
mod connections;
mod server;
mod health;
mod client;

pub use client::{Client, ClientError};
pub use desk::Desk;
pub use entitled::{Deed, Entitled, EntitledApp};
pub use health::serve as serve_health;
pub use question::{
    Explanation, GrantTrail, Operation, Origin, Presented, Question, SeenRequest, StepOutcome, TrailStep,
};
pub use secret_text::SecretText;
pub use server::{bind, serve};
pub use signing::{AuthorityRequest, InstalledStatus, SignedAuthorityStatus};
pub use steward::{Steward, StewardError};
pub use usage_wanted::UsageWanted;
pub use view::{
    AuthorityStatus, AwaitingStatus, ConcurrencyStatus, ConfigStatus, DeliveryStatus, DetectionStatus,
    Failure, IssuedCertificate, LaggardStatus, LimitsStatus, ListenerStatus, Moved, Order, PresentedStatus,
    QuotaStatus, Readiness, RegistryStatus, Reloaded, RemoteStatus, RenewalStatus, RollOverStatus,
    ServiceStatus, Status, WorkloadStatus, authorities, bundle_pem, workloads,
};
